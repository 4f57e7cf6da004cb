"""Mixtures read off predictions: exact error and bound, against draws and by hand."""

import math

import numpy as np
import pytest

from spire_core.mixture.readout import (
    confusion_matrix,
    inverse_norm,
    read_weights,
    readout_bound,
    readout_error,
)
from spire_core.rng import numpy_generator

SKEWED = np.array([[0.8, 0.3, 0.0], [0.2, 0.6, 0.1], [0.0, 0.1, 0.9]])
PI = np.array([0.5, 0.2, 0.3])


def test_a_confusion_matrix_has_predictions_in_rows_and_classes_in_columns() -> None:
    found = confusion_matrix(np.array([0, 1, 1, 1]), np.array([0, 0, 1, 1]), 2)
    np.testing.assert_allclose(found, [[0.5, 0.0], [0.5, 1.0]])


def test_two_classes_by_hand() -> None:
    """With C = [[1 - a, a], [a, 1 - a]], C^-1 has norm 1 / (1 - 2 a)."""
    confusion = np.array([[0.9, 0.1], [0.1, 0.9]])
    assert inverse_norm(confusion) == pytest.approx(1 / 0.8)
    p = 0.9 * 0.3 + 0.1 * 0.7
    pi = np.array([0.3, 0.7])
    assert readout_error(confusion, pi) == pytest.approx(2 * p * (1 - p) / 0.8**2)
    assert readout_bound(confusion, pi) == pytest.approx(2 * p * (1 - p) / 0.8**2)


@pytest.mark.parametrize("n", [7, 200])
def test_the_error_is_exact_for_every_n_and_below_the_bound(n: int) -> None:
    generator = numpy_generator(0, "test_readout", n)
    shares = generator.multinomial(n, SKEWED @ PI, 20_000) / n
    found = read_weights(shares, SKEWED)
    np.testing.assert_allclose(found.sum(1), 1.0)
    errors = n * np.square(found - PI).sum(1)
    assert abs(errors.mean() - readout_error(SKEWED, PI)) <= 4 * errors.std() / math.sqrt(20_000)
    assert readout_error(SKEWED, PI) < readout_bound(SKEWED, PI)
