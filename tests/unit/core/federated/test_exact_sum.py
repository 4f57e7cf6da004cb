"""Sums that are exact, whatever the order and the grouping."""

import math

import numpy as np
import pytest

from spire_core.errors import DivergenceError
from spire_core.federated.exact_sum import BLOCK, ExactSum, top_of
from spire_core.rng import numpy_generator

KINDS = ("weights", "first moments", "second moments")


def arrays_of(kind: str, num_clients: int, size: int) -> list[np.ndarray]:
    rng = numpy_generator(0, kind)
    normal, spread = rng.standard_normal((num_clients, size)), 10 ** rng.uniform(-6, -2, size)
    drawn = {"weights": 0.03 * normal, "first moments": spread * normal}
    return list(drawn.get(kind, (spread * normal) ** 2).astype(np.float32))


def exact_mean(arrays: list[np.ndarray], counts: list[int]) -> np.ndarray:
    rows = zip(*arrays, strict=True)
    sums = [math.fsum(n * float(x) for n, x in zip(counts, row, strict=True)) for row in rows]
    return (np.array(sums) / sum(counts)).astype(np.float32)


def mean_in_groups(
    arrays: list[np.ndarray], counts: list[int], top: int, num_groups: int
) -> np.ndarray:
    rng = numpy_generator(num_groups, "groups")
    totals = [ExactSum(arrays[0].size, top, sum(counts)) for _ in range(num_groups)]
    for client in rng.permutation(len(arrays)):
        totals[rng.integers(num_groups)].add(arrays[client], counts[client])
    whole = ExactSum(arrays[0].size, top, sum(counts))
    for i in rng.permutation(num_groups):
        whole.merge(totals[i])
    return whole.mean(sum(counts))


@pytest.mark.parametrize("kind", KINDS)
def test_the_mean_is_the_exact_one_in_any_grouping(kind: str) -> None:
    arrays = arrays_of(kind, num_clients=30, size=BLOCK + 2000)
    counts = numpy_generator(1, "counts").integers(1, 5000, 30).tolist()
    found = [mean_in_groups(arrays, counts, top_of(arrays[0], 0), n) for n in (1, 2, 3, 7)]
    for one in found[1:]:
        np.testing.assert_array_equal(one, found[0])
    far = np.abs(found[0].view(np.int32) - exact_mean(arrays, counts).view(np.int32))
    assert (far == 0).mean() >= 0.9999  # float64 and float32 round some numbers twice
    assert far.max() <= 1


@pytest.mark.parametrize("kind", KINDS)
def test_one_array_is_its_own_mean(kind: str) -> None:
    [array] = arrays_of(kind, num_clients=1, size=BLOCK + 3)
    total = ExactSum(array.size, top_of(array, 0), 7)
    total.add(array, 7)
    np.testing.assert_array_equal(total.mean(7), array)


def test_the_largest_sums_stay_within_their_level() -> None:
    """As many clients as there may be, all of them just below the bound."""
    num_clients, below = 4096, np.nextafter(np.float32(8), np.float32(0))
    array = np.array([below, -below, below / 3], np.float32)
    total = ExactSum(3, 3, num_clients * 1000)
    for _ in range(num_clients):
        total.add(array, 1000)
    assert abs(int(total.levels[0][0])) < 2**62
    np.testing.assert_array_equal(total.mean(1000 * num_clients), array)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 2.0**30])
def test_what_is_not_finite_or_far_too_large_has_diverged(bad: float) -> None:
    before = np.array([0.5, -1.0], np.float32)
    total = ExactSum(2, top_of(before, 0), 10)
    with pytest.raises(DivergenceError, match="not finite and below 2"):
        total.add(np.array([0.1, bad], np.float32), 3)
