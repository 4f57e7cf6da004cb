"""Numbers as integers: range, error and rounding."""

import numpy as np
import pytest

from spire_core.secure_sum.fixed_point import FixedPoint, vector_form


@pytest.mark.parametrize("seed", range(5))
def test_a_sum_has_the_error_that_is_promised(seed: int) -> None:
    rng = np.random.default_rng(seed)
    weights = rng.integers(1, 1000, size=20)
    arrays = rng.normal(size=(20, 500)) * 10.0 ** rng.uniform(-9, 0, size=(20, 500))
    form = FixedPoint(3, int(weights.sum()).bit_length())
    total = np.sum(
        [form.encode(a, int(n)) for a, n in zip(arrays, weights, strict=True)], 0, np.uint64
    )
    mean = form.decode(total) / weights.sum()
    error = np.abs(mean - (weights @ arrays) / weights.sum()).max()
    assert error <= 20 * 2.0 ** (3 - 62) + 1e-15  # and the rounding of float64 here


def test_numbers_on_the_grid_are_summed_without_any_error() -> None:
    form = vector_form(2)
    parts = [np.array([0.5, -3.0, 2.0**-32]), np.array([0.25, 1.0, 2.0**-32])]
    total = np.sum([form.encode(part) for part in parts], 0, np.uint64)
    assert form.decode(total).tolist() == [0.75, -2.0, 2.0**-31]


def test_the_largest_numbers_of_all_clients_do_not_overflow() -> None:
    form = FixedPoint(2, 5)  # weights that add up to 31
    largest = np.array([np.nextafter(4.0, 0), -np.nextafter(4.0, 0)])
    total = np.sum([form.encode(largest, n) for n in (16, 8, 7)], 0, np.uint64)
    assert form.decode(total).tolist() == pytest.approx((31 * largest).tolist(), rel=1e-15)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 4.0, -4.0])
def test_what_does_not_fit_is_found(value: float) -> None:
    assert not FixedPoint(2, 5).fits(np.array([0.0, value]))
    assert FixedPoint(2, 5).fits(np.array([0.0, 3.999]))


def test_roundings_by_hand() -> None:
    values = np.array([0.4, 0.6, -0.4, -0.6, 0.0])  # in units
    for rounding, expected in (
        ("nearest", [0, 1, 0, -1, 0]),
        ("to_zero", [0, 0, 0, 0, 0]),
        ("up", [1, 1, 0, 0, 0]),
    ):
        form = FixedPoint(62, 0, rounding)
        assert form.encode(values).view(np.int64).tolist() == expected
