"""The images of clients' controls, chosen from clients that are written out by hand."""

from collections.abc import Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pipeline.evaluation.controls import (
    COPIES,
    FRESH,
    NEAREST_IMAGES,
    control_plan,
    nearest_client,
)
from pipeline.federation.setup import FederationSetup
from pipeline.results.metrics import covered_ratio
from spire_core.partition.split import ClientSplit, Partition
from spire_core.partition.styles import amount_of

LABELS = np.repeat([0, 1, 2], 40)  # positions 0 to 39 are of class 0, and so on


def client(client_id: int, *positions: int, num_train: int = 2) -> ClientSplit:
    at = np.array(positions)
    return ClientSplit(client_id, at[:num_train], at[num_train:])


OLD = (client(0, 0, 1, 2, 40), client(1, 41, 42, 43, 3), client(2, 80, 81, 82, 83))
NEW = (client(3, 44, 45, 46, 4), client(4, 84, 86, 47, 85))  # mostly of class 1, and of 2


def setting(
    partition: Partition = Partition(OLD, NEW),  # noqa: B008
    candidates: Sequence[int] = (0, 1, 2),
    style: str = "none",
    is_personal: bool = False,
    num_images: int = 12,
    seed: int = 0,
    sets_aside: bool = False,
) -> Any:
    config = SimpleNamespace(
        partition=SimpleNamespace(style=style),
        method=SimpleNamespace(record=SimpleNamespace(is_personal=is_personal)),
        eval=SimpleNamespace(num_images=num_images),
        seed=seed,
        sets_aside=sets_aside,
        is_new=lambda client_id: client_id >= len(OLD),
    )
    data = SimpleNamespace(labels=LABELS, class_names=("a", "b", "c"))
    found: Any = SimpleNamespace(
        config=config, data=data, partition=partition, representative_ids=candidates
    )
    found.fitted_split = partial(FederationSetup.fitted_split, found)
    return found


def positions(name: str, **settings: Any) -> np.ndarray:
    """The images of new client 3's control of this name."""
    return control_plan(setting(**settings), 3).positions[name]


def test_the_nearest_client_is_that_of_the_nearest_classes() -> None:
    assert [nearest_client(setting(), client_id) for client_id in (3, 4)] == [1, 2]
    some = setting(candidates=(0, 2))
    assert nearest_client(some, 3) == 0  # of the others it shares a class
    assert nearest_client(setting(candidates=()), 3) is None


def test_with_styles_it_is_that_of_the_nearest_style_too() -> None:
    """Clients of the same classes differ by their styles alone."""
    same = Partition(
        tuple(client(i, *range(4 * i, 4 * i + 4)) for i in range(8)),
        tuple(client(i, *range(4 * i, 4 * i + 4)) for i in (8, 9)),
    )
    rotated, tinted = (setting(same, range(8), style) for style in ("rotation", "tint"))
    for new in (8, 9):
        gaps = [abs(amount_of(old, 0) - amount_of(new, 0)) for old in range(8)]
        assert nearest_client(rotated, new) == int(np.argmin(gaps))
        around = [min(gap, 2 - gap) for gap in gaps]  # hues are on a circle
        assert nearest_client(tinted, new) == int(np.argmin(around))


def test_copies_are_all_images_that_a_client_fits_again_and_again() -> None:
    assert positions(COPIES).tolist() == [44, 45] * 6
    assert len({*positions(COPIES, sets_aside=True).tolist()}) == 1  # of its two training images


@pytest.mark.parametrize(
    ("hull_tv", "kid", "ratio"),
    [
        ([0.0, 0.05, 0.4], [1.0, 2.0, 6.0], 0.25),
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
    drawn = [positions(FRESH, num_images=30, seed=seed) for seed in range(40)]
    for fresh in drawn:
        assert len(set(fresh.tolist())) == 30
        assert not set(fresh.tolist()) & {44, 45, 46, 4}
    shares = np.mean([np.bincount(LABELS[fresh], minlength=3) / 30 for fresh in drawn], axis=0)
    np.testing.assert_allclose(shares, [0.25, 0.75, 0], atol=4 * (0.25 * 0.75 / 1200) ** 0.5)
    assert np.array_equal(drawn[0], positions(FRESH, num_images=30))


def test_there_are_no_fresh_images_where_none_would_do() -> None:
    named = Partition(OLD, NEW, names=tuple("abcde"))
    few = setting(num_images=80)  # 37 are left of class 1
    for one in (few, setting(style="rotation"), setting(named)):
        assert FRESH not in control_plan(one, 3).positions


def test_a_model_of_its_own_draws_in_place_of_the_nearest_clients_images() -> None:
    without, with_model = control_plan(setting(), 3), control_plan(setting(is_personal=True), 3)
    assert without.drawn_as is None
    assert without.positions[NEAREST_IMAGES].tolist() == [41, 42, 43, 3]
    assert with_model.drawn_as == 1
    assert NEAREST_IMAGES not in with_model.positions
    old = control_plan(setting(sets_aside=True), 1)  # which sets no image aside
    assert (old.drawn_as, list(old.positions)) == (1, [COPIES, FRESH])
    assert old.positions[COPIES].tolist() == [41, 42] * 6
    assert not {41, 42, 43, 3} & set(old.positions[FRESH].tolist())
