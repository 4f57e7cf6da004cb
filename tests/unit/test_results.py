"""docs/results.md says what the rows in sweeps/studies say: its numbers, and its words."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from benchmarks.results import MARK, PAGE, effect, faults, holm, rows, score, value
from benchmarks.results_figure import WORLDS, fits, world_fits

OF_64 = ["study-worlds-cpu", "study-long-fits-cpu", "study-styles-cpu", "study-length-cpu"]
OF_64 += ["study-rivals-cpu", "fits-rivals-cpu", "fits-worlds-cpu", "fits-length-cpu"]
OF_64 += ["fits-rounds-cpu", "fits-dirichlet-cpu"]


def test_every_number_on_the_page_follows_from_the_rows() -> None:
    assert faults(PAGE.read_text()) == []


def test_a_changed_number_is_a_fault() -> None:
    page = PAGE.read_text()
    assert len(faults(MARK.sub("<!--long:b.kid_copies-->9.99<!--/-->", page, count=1))) == 1
    assert len(faults(page + "It is 1.5 times as high.")) == 1
    assert len(faults(page.replace("<!--long:b.kid_copies-->", ""))) == 1


def worlds(study: str) -> list[tuple[pd.DataFrame, pd.DataFrame]]:
    """Return SPIRE's fits and its rivals' in each world of a study."""
    found = fits(study)
    keys = [key for key in found if key.startswith(("federation.", "partition."))]
    each = [own for _, own in found.groupby(keys)] if keys else [found]
    return [(own[own.method == "spire"], own[own.method != "spire"]) for own in each]


def test_no_rival_ends_with_a_lower_loss_than_spire() -> None:
    found = [world for study in OF_64 for world in worlds(study)]
    assert sum(len(rivals) for _, rivals in found) > 60
    for spire, rivals in found:
        assert rivals.heldout_after.min() > spire.heldout_after.max()


@pytest.mark.parametrize("name", WORLDS)
def test_no_rival_has_both_a_lower_kid_and_fewer_copies(name: str) -> None:
    found = world_fits(name)
    spire, rivals = found[found.method == "spire"], found[found.method != "spire"]
    assert min(len(spire), len(rivals)) >= 2
    for fit in spire.itertuples():
        assert not ((rivals.kid_after < fit.kid_after) & (rivals.nn_excess < fit.nn_excess)).any()


def changes(side: str) -> list[float]:
    """Return by how much a fit changes the logarithm of the loss in each row of Eight seeds.

    0 where its 95 % interval has 0.
    """
    found = []
    for pair in ("one", "pairs", "few-pairs", "mixtures", "long", "tints"):
        logs = np.log(score(pair, side, "gain"))
        low, high = stats.ttest_1samp(logs, 0).confidence_interval()
        found.append(logs.mean() if low > 0 or high < 0 else 0)
    return found


def test_sentences_without_numbers_follow_from_the_rows() -> None:
    assert max(changes("b")) < 0, "SPIRE's fit lowers the loss in each row of Eight seeds"
    assert sum(change > 0 for change in changes("a")) == 3, "it clearly raises it in three of six"
    assert effect("contrast")["effect"] > 0
    assert holm("contrast") < 0.05, "this contrast was planned, and holds"
    few = fits("rates-cpu")[lambda all: all["federation.num_clients"] == "24"].set_index("method")
    drawn = few[few["adapt.lr"] == "0.0003"].loc["fedavg_ft"]
    assert drawn.nn_excess < 0.035, "a fit of full fine-tuning drew better there and hardly copied"
    assert drawn.kid_after < few.kid_after["spire"].min()
    of_few = fits("study-few-images-cpu").groupby("adapt.num_images").kid_after.min()
    for num in ("1", "4"):
        nearest = score(f"images-{num}", "b", "kid_nearest_draws").mean()
        assert of_few[num] > nearest, "no fit beats the nearest old client's embedding"
    assert score("images-1", "b", "gain").min() > 1, "with one image SPIRE's fit raises the loss"
    for pair in ("glyphs-4", "glyphs-16"):
        assert float(value(pair, "minus.prompt_accuracy_after")) < 0, "glyphs are read less often"


def test_other_seeds_chose_the_rates_of_eight_seeds() -> None:
    found = rows("rates-cpu")[lambda all: all.clients == "new"]
    tints = found["partition.style"] == "tint"
    few = found["adapt.num_images"] != "64"
    for of, rates in (
        (~tints & ~few, {"fedavg_ft": "0.001", "spire": "0.02"}),
        (tints, {"fedavg_ft": "0.0003", "spire": "0.1"}),
    ):
        keys = ["method", "adapt.lr", "partition_hash"]
        logs = np.log(found[of].groupby(keys).kid_after.mean()).groupby(keys[:2]).mean()
        assert dict(logs.groupby("method").idxmin().tolist()) == rates
