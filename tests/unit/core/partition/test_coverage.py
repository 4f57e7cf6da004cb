"""Distances of a class mixture to the hull of others: hand-computed, and against its definition."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spire_core.partition.coverage import (
    Coverage,
    coverage,
    coverages,
    hull_distance,
    kl_projection,
)

CORNERS = np.eye(3)


def test_a_mixture_of_clients_is_covered_though_none_is_near() -> None:
    found = coverage(CORNERS, np.array([0.5, 0.25, 0.25]))
    assert found.hull_tv == pytest.approx(0.0, abs=1e-9)
    assert found.nearest_tv == pytest.approx(0.5)


def test_what_no_client_holds_is_out_of_reach() -> None:
    found = coverage(CORNERS[:2], np.array([0.3, 0.3, 0.4]))
    assert found.hull_tv == pytest.approx(0.4)
    assert found.nearest_tv == pytest.approx(0.7)


def test_new_clients_are_compared_with_the_old_ones_alone() -> None:
    counts = np.array([[4, 0], [2, 2], [0, 8], [1, 3]])
    far, near = coverages(counts, 2)
    assert (far.hull_tv, far.nearest_tv) == pytest.approx((0.5, 0.5))
    assert near == Coverage(pytest.approx(0.25), pytest.approx(0.25))
    assert coverages(counts[:, :1], 2) == []


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 8), st.integers(2, 6))
def test_no_mixture_of_clients_is_nearer(seed: int, num_clients: int, num_classes: int) -> None:
    generator = np.random.default_rng(seed)
    mixtures = generator.dirichlet(np.full(num_classes, 0.3), num_clients)
    target = generator.dirichlet(np.full(num_classes, 0.3))
    tried = generator.dirichlet(np.full(num_clients, 0.5), 2000) @ mixtures
    least = 0.5 * np.abs(tried - target).sum(1).min()
    found = coverage(mixtures, target)
    assert -1e-9 <= found.hull_tv <= min(least, found.nearest_tv) + 1e-9


def test_the_projection_on_two_clients_is_that_of_one_weight() -> None:
    """Against a search over the one weight, and beyond the hull in total variation."""
    old = np.array([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1]])
    target = np.array([0.3, 0.2, 0.5])
    reached = kl_projection(old, target, 1e-6)
    weights = np.linspace(0, 1, 100_001)[:, None]
    tried = weights * old[0] + (1 - weights) * old[1]
    divergence = (target * np.log(target / tried)).sum(1)
    np.testing.assert_allclose(reached, tried[divergence.argmin()], atol=1e-3)
    assert 0.5 * np.abs(reached - target).sum() >= hull_distance(old, target) - 1e-9
