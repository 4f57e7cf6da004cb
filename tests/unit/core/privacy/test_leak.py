"""Recovery of embeddings on matrices whose embedding is known."""

import numpy as np
import pytest

from spire_core.privacy.leak import (
    abs_cos,
    chance_cos,
    gradients_in_moment,
    span_shares,
    top_direction,
)

RNG = np.random.default_rng(0)
WIDTH, D_EMB = 40, 12
EMB = RNG.normal(size=D_EMB)


def test_the_first_moment_of_a_round_is_what_is_left_of_its_gradients() -> None:
    before, steps = RNG.normal(size=5), RNG.normal(size=(4, 5))
    moment = before
    for gradient in steps:
        moment = 0.9 * moment + 0.1 * gradient
    by_hand = 0.1 * sum(0.9 ** (3 - s) * g for s, g in enumerate(steps))
    np.testing.assert_allclose(gradients_in_moment(moment, before, 0.9**4), by_hand, atol=1e-12)


def test_a_matrix_of_rank_one_shows_its_factor() -> None:
    matrix = np.outer(RNG.normal(size=WIDTH), EMB)
    assert abs_cos(top_direction(matrix), EMB) == pytest.approx(1.0)
    assert abs_cos(top_direction(-matrix), EMB) == pytest.approx(1.0)
    assert abs_cos(top_direction(matrix), RNG.normal(size=D_EMB)) < 0.7
    assert top_direction(np.zeros((WIDTH, D_EMB))) is None
    assert abs_cos(None, EMB) == abs_cos(EMB, np.zeros(D_EMB)) == 0.0


def test_a_sum_shows_the_span_of_its_clients() -> None:
    embs, others = RNG.normal(size=(3, D_EMB)), RNG.normal(size=(200, D_EMB))
    total = RNG.normal(size=(WIDTH, 3)) @ embs
    np.testing.assert_allclose(span_shares(total, 3, embs), 1.0)
    outside = span_shares(total, 3, others)
    assert (outside**2).mean() == pytest.approx(3 / D_EMB, abs=0.03)
    assert (span_shares(np.zeros((WIDTH, D_EMB)), 3, embs) == 0).all()


def test_chance_is_the_nearest_pair() -> None:
    embs = np.array([[1.0, 0.0], [0.0, 2.0], [3.0, 4.0]])
    assert chance_cos(embs[:, None]) == pytest.approx(0.8)
    assert chance_cos(np.array([embs[:2], embs[:2]])) == pytest.approx(1.0)
    assert chance_cos(np.array([embs[1:], embs[:1].repeat(2, 0)])) == pytest.approx(0.6)
    assert np.isnan(chance_cos(embs[:1, None]))
