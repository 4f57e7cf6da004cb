"""Sums that are exact, whatever the order and the grouping."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spire_core.federated.exact_sum import BLOCK, ExactSum, PartialSum, Scale
from spire_core.rng import numpy_generator

KINDS = ("weights", "first moments", "second moments", "all exponents", "denormals", "cancelling")
FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)


def arrays_of(kind: str, num_clients: int, size: int, seed: int = 0) -> list[np.ndarray]:
    rng = numpy_generator(seed, kind)
    normal = rng.standard_normal((num_clients, size))
    spread = 10 ** rng.uniform(-9, -2, size)
    if kind == "weights":
        drawn = 0.03 * normal
    elif kind == "first moments":
        drawn = spread * normal
    elif kind == "second moments":
        drawn = (spread * normal) ** 2
    elif kind == "denormals":
        drawn = 1e-42 * normal
    elif kind == "cancelling":
        drawn = normal * np.float64(2.0) ** rng.integers(-90, 90, (num_clients, size))
        drawn[1::2] = -drawn[: num_clients - 1 : 2] * (1 + 1e-7)
    else:
        drawn = normal * np.float64(2.0) ** rng.integers(-149, 120, (num_clients, size))
    return list(drawn.astype(np.float32))


def exact_mean(arrays: list[np.ndarray], counts: list[int]) -> np.ndarray:
    rows = zip(*arrays, strict=True)
    sums = [math.fsum(n * float(x) for n, x in zip(counts, row, strict=True)) for row in rows]
    return (np.array(sums) / sum(counts)).astype(np.float32)


def mean_in_groups(
    arrays: list[np.ndarray], counts: list[int], scale: Scale, num_groups: int, seed: int
) -> np.ndarray:
    rng = numpy_generator(seed, "groups")
    totals = [ExactSum(arrays[0].size, scale) for _ in range(num_groups)]
    for client in rng.permutation(len(arrays)):
        totals[rng.integers(num_groups)].add(arrays[client], counts[client])
    parts = [totals[i].part(0, arrays[0].size) for i in rng.permutation(num_groups)]
    whole = parts[0]
    for part in parts[1:]:
        whole = whole + part
    return whole.mean(sum(counts))


def bits(array: np.ndarray) -> np.ndarray:
    return array.view(np.int32)


@pytest.mark.parametrize("kind", KINDS)
def test_the_mean_is_the_exact_one_in_any_grouping(kind: str) -> None:
    arrays = arrays_of(kind, num_clients=30, size=2000)
    counts = numpy_generator(1, "counts").integers(1, 5000, 30).tolist()
    expected = exact_mean(arrays, counts)
    scale = Scale.of(arrays[0], sum(counts))
    for num_groups in (1, 2, 3, 7):
        found = mean_in_groups(arrays, counts, scale, num_groups, seed=num_groups)
        np.testing.assert_array_equal(bits(found), bits(expected))


def test_large_vectors_agree_with_the_exact_mean_nearly_everywhere() -> None:
    """Correct rounding fails where float64 and float32 round a number twice: once in 2^28."""
    for kind in KINDS[:3]:
        arrays = arrays_of(kind, num_clients=5, size=60_000)
        found = mean_in_groups(arrays, [64, 1, 300, 20, 7], Scale.of(arrays[0], 392), 2, seed=0)
        far = np.abs(bits(found) - bits(exact_mean(arrays, [64, 1, 300, 20, 7])))
        assert (far == 0).mean() >= 0.9999
        assert far.max() <= 1


@settings(max_examples=150, deadline=None)
@given(
    rows=st.lists(st.lists(FLOATS, min_size=3, max_size=3), min_size=1, max_size=12),
    data=st.data(),
)
def test_any_numbers_in_any_grouping(rows: list[list[float]], data: st.DataObject) -> None:
    """The scale is right, far too small or far too large."""
    arrays = [np.array(row, np.float32) for row in rows]
    counts = data.draw(st.lists(st.integers(1, 2**29 - 1), min_size=len(rows), max_size=len(rows)))
    top = data.draw(st.integers(-149, 131))
    scale = Scale(top, sum(counts).bit_length())
    expected = exact_mean(arrays, counts)
    for num_groups in (1, 3):
        found = mean_in_groups(arrays, counts, scale, num_groups, seed=len(rows))
        np.testing.assert_array_equal(bits(found + 0.0), bits(expected + 0.0))  # no zero below 0


def test_one_array_is_its_own_mean() -> None:
    for kind in KINDS[:5]:
        [array] = arrays_of(kind, num_clients=1, size=BLOCK + 3)
        total = ExactSum(array.size, Scale.of(array, 7))
        total.add(array, 7)
        np.testing.assert_array_equal(total.part(0, array.size).mean(7), array + np.float32(0))


def test_what_is_taken_away_again_was_never_there() -> None:
    arrays = arrays_of("first moments", num_clients=3, size=500)
    scale = Scale.of(arrays[0], 100)
    with_all, without = ExactSum(500, scale), ExactSum(500, scale)
    for array in arrays:
        with_all.add(array, 10)
    with_all.add(-arrays[1], 10)
    without.add(arrays[2], 10)
    without.add(arrays[0], 10)
    found, expected = with_all.part(0, 500).mean(20), without.part(0, 500).mean(20)
    np.testing.assert_array_equal(found, expected)


def test_the_largest_sums_stay_within_their_level() -> None:
    """As many clients as the bound allows, all of them just below it."""
    num_clients, below = 4096, np.nextafter(np.float32(8), np.float32(0))
    array = np.array([below, -below, below / 3], np.float32)
    scale = Scale(top=3, shift=(num_clients * 1000).bit_length())
    total = ExactSum(3, scale)
    for _ in range(num_clients):
        total.add(array, 1000)
    assert abs(int(total.levels[0][0])) < 2**62
    np.testing.assert_array_equal(total.part(0, 3).mean(1000 * num_clients), array)


def test_stretches_are_parts_of_the_whole() -> None:
    arrays = arrays_of("all exponents", num_clients=3, size=BLOCK + 100)
    total = ExactSum(BLOCK + 100, Scale.of(arrays[0], 30))
    for array in arrays:
        total.add(array, 10)
    whole = total.part(0, BLOCK + 100).mean(30)
    parts = [total.part(start, start + 5000) for start in range(0, BLOCK + 100, 5000)]
    assert sum(part.size for part in parts) == BLOCK + 100
    np.testing.assert_array_equal(np.concatenate([part.mean(30) for part in parts]), whole)
    assert total.part(2 * BLOCK, 3 * BLOCK).size == 0


def test_a_level_that_another_number_needs_rounds_nothing_twice() -> None:
    """A number between two of float32, and one whose size takes a level above."""
    scale = Scale(top=0, shift=3)
    unit = math.ldexp(1.0, scale.unit(0))
    between = [2**-6 * (1 + 2**-23), 2**-30, -unit, -0.3 * unit]
    total = ExactSum(2, scale)
    for number in between:
        total.add(np.array([number, 1.5], np.float32), 1)
    assert total.part(0, 2).levels.keys() > total.part(0, 1).levels.keys()
    assert total.part(0, 2).mean(4)[0] == total.part(0, 1).mean(4)[0]


@settings(max_examples=200)
@given(st.lists(FLOATS, min_size=1, max_size=6), FLOATS)
def test_the_mean_of_a_number_does_not_depend_on_its_neighbours(
    column: list[float], beside: float
) -> None:
    total = ExactSum(2, Scale(top=0, shift=3))
    for number in column:
        total.add(np.array([number, beside], np.float32), 1)
    both, alone = total.part(0, 2).mean(len(column)), total.part(0, 1).mean(len(column))
    assert both[0].tobytes() == alone[0].tobytes()


def test_levels_that_nobody_needs_are_neither_kept_nor_sent() -> None:
    array = arrays_of("weights", num_clients=1, size=3000)[0]
    array[7] = 1e-15
    total = ExactSum(3000, Scale.of(array, 64))
    total.add(array, 64)
    assert sorted(total.part(0, 3000).levels) == [0, 1]
    assert list(total.part(8, 3000).levels) == [0]
    empty = PartialSum(total.scale, 4, {})
    np.testing.assert_array_equal(empty.mean(1), np.zeros(4, np.float32))
