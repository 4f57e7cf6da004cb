"""The images of new clients' controls, chosen from clients that are written out by hand."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from pipeline.evaluation.controls import COPIES, FRESH, NEAREST_IMAGES, ControlRule
from pipeline.results.metrics import covered_ratio
from spire_core.partition.split import ClientSplit, Partition
from spire_core.partition.styles import amount_of

LABELS = np.repeat([0, 1, 2], 40)  # positions 0 to 39 are of class 0, and so on


def client(client_id: int, *positions: int, num_train: int = 2) -> ClientSplit:
    at = np.array(positions)
    return ClientSplit(client_id, at[:num_train], at[num_train:])


OLD = (client(0, 0, 1, 2, 40), client(1, 41, 42, 43, 3), client(2, 80, 81, 82, 83))
NEW = (client(3, 44, 45, 46, 4), client(4, 84, 86, 47, 85))  # mostly of class 1, and of 2
RULE = ControlRule(Partition(OLD, NEW), LABELS, 3, (0, 1, 2), "none", False, 12, seed=0)


def test_the_nearest_client_is_that_of_the_nearest_classes() -> None:
    assert [RULE.nearest(client_id) for client_id in (3, 4)] == [1, 2]
    assert replace(RULE, candidates=(0, 2)).nearest(3) == 0  # of the others it shares a class
    assert replace(RULE, candidates=()).nearest(3) is None


def test_with_styles_it_is_that_of_the_nearest_style_too() -> None:
    """Clients of the same classes differ by their styles alone."""
    same = Partition(
        tuple(client(i, *range(4 * i, 4 * i + 4)) for i in range(8)),
        tuple(client(i, *range(4 * i, 4 * i + 4)) for i in (8, 9)),
    )
    rule = replace(RULE, partition=same, candidates=range(8), style="rotation")
    for new in (8, 9):
        gaps = [abs(amount_of(old, 0) - amount_of(new, 0)) for old in range(8)]
        assert rule.nearest(new) == int(np.argmin(gaps))
        around = [min(gap, 2 - gap) for gap in gaps]  # hues are on a circle
        assert replace(rule, style="tint").nearest(new) == int(np.argmin(around))


def test_copies_are_all_training_images_again_and_again() -> None:
    copies = RULE.plan(3).positions[COPIES]
    assert copies.tolist() == [44, 45] * 6
    few = replace(RULE, num_images=1).plan(3).positions[COPIES]
    assert few.tolist() == [44, 45]


def test_copies_are_of_the_images_that_a_client_fits() -> None:
    copies = replace(RULE, sets_aside=True).plan(3).positions[COPIES]
    assert len(set(copies.tolist())) == 1  # of its two training images


@pytest.mark.parametrize(
    ("hull_tv", "kid", "ratio"),
    [
        ([0.0, 0.05, 0.4], [1.0, 2.0, 6.0], 0.25),
        ([0.0, 0.05, 0.4], [1.0, 2.0, None], None),
        ([0.0, 0.4], [-0.1, 6.0], -0.1 / 6),  # which a report then says
        ([0.0, 0.4], [1.0, -0.1], 0.0),  # no ratio
        ([0.0, 0.05, None], [1.0, 2.0, 3.0], None),
    ],
)
def test_covered_clients_are_held_against_the_others(
    hull_tv: list[float | None], kid: list[float | None], ratio: float | None
) -> None:
    clients = pd.DataFrame({"hull_tv": hull_tv, "kid_after": kid}, dtype=object)
    assert covered_ratio(clients) == (None if ratio is None else pytest.approx(ratio))


def test_fresh_images_are_of_others_with_the_clients_classes() -> None:
    rule = replace(RULE, num_images=30)
    drawn = [replace(rule, seed=seed).plan(3).positions[FRESH] for seed in range(40)]
    for fresh in drawn:
        assert len(set(fresh.tolist())) == 30
        assert not set(fresh.tolist()) & {44, 45, 46, 4}
    shares = np.mean([np.bincount(LABELS[fresh], minlength=3) / 30 for fresh in drawn], axis=0)
    np.testing.assert_allclose(shares, [0.25, 0.75, 0], atol=4 * (0.25 * 0.75 / 1200) ** 0.5)
    assert np.array_equal(rule.plan(3).positions[FRESH], rule.plan(3).positions[FRESH])


def test_there_are_no_fresh_images_where_none_would_do() -> None:
    assert FRESH not in replace(RULE, num_images=80).plan(3).positions  # 37 are left of class 1
    assert FRESH not in replace(RULE, style="rotation").plan(3).positions
    named = Partition(OLD, NEW, names=tuple("abcde"))
    assert FRESH not in replace(RULE, partition=named).plan(3).positions


def test_a_model_of_its_own_draws_in_place_of_the_nearest_clients_images() -> None:
    without, with_model = RULE.plan(3), replace(RULE, has_own_models=True).plan(3)
    assert without.drawn_as is None
    assert without.positions[NEAREST_IMAGES].tolist() == [41, 42, 43, 3]
    assert with_model.drawn_as == 1
    assert NEAREST_IMAGES not in with_model.positions
