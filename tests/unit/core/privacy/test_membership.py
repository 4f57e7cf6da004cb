"""Numbers of membership attacks against scipy, hand and known distributions."""

import numpy as np
import pytest
from scipy import stats

from spire_core.privacy.membership import (
    ClientScores,
    auc,
    best_elsewhere,
    evaluate_attack,
    hit_rate,
    pooled,
)


def drawn(seed: int, shift: float, n: int = 40, m: int = 30) -> ClientScores:
    rng = np.random.default_rng(seed)
    return ClientScores(rng.normal(shift, 1, n), rng.normal(0, 1, m))


@pytest.mark.parametrize("seed", range(3))
def test_auc_is_that_of_mann_and_whitney(seed: int) -> None:
    scores = drawn(seed, 0.7)
    coarse = ClientScores(scores.members.round(), scores.others.round())  # with ties
    for one in (scores, coarse):
        u = stats.mannwhitneyu(one.members, one.others).statistic
        assert auc(one) == pytest.approx(u / (40 * 30))


def test_hits_by_hand() -> None:
    others = np.arange(200.0)  # 1 % of them are two: 198 and 199 may exceed the threshold
    assert hit_rate(ClientScores(np.array([197.0, 197.5, 198.5, 300.0]), others)) == 0.75
    few = ClientScores(np.array([0.5, 2.5, 3.5]), np.array([1.0, 2.0, 3.0]))
    assert hit_rate(few) == pytest.approx(1 / 3)  # of three others none may exceed it


def test_pooled_scores_do_not_depend_on_a_clients_scale() -> None:
    one, two = drawn(0, 0.7), drawn(1, 0.7)
    scaled = ClientScores(5 * two.members + 3, 5 * two.others + 3)
    np.testing.assert_allclose(pooled([one, two]).members, pooled([one, scaled]).members)
    assert len(pooled([one, two]).others) == 60
    equal = ClientScores(np.ones(3), np.ones(3))
    assert (pooled([equal]).members == 0).all()


@pytest.mark.slow
def test_an_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    truth, covered = stats.norm.cdf(0.7 / np.sqrt(2)), 0
    for seed in range(10):
        result = evaluate_attack([drawn(100 * seed + k, 0.7) for k in range(4)], 0)
        assert result.auc_low <= result.auc <= result.auc_high
        assert 0 <= result.tpr_low <= result.tpr_high <= 1
        covered += result.auc_low <= truth <= result.auc_high
    assert covered >= 8


def test_a_choice_is_made_on_the_other_clients() -> None:
    strong, weak = [drawn(k, 3.0) for k in range(3)], [drawn(k, 0.0) for k in range(3, 6)]
    assert best_elsewhere([weak, strong]) == strong
    lucky = [drawn(9, 50.0), *weak[1:]]  # the best choice for client 0, and for no other
    assert best_elsewhere([lucky, strong])[0] is strong[0]
    alone = best_elsewhere([weak[:1], strong[:1]])
    assert len(alone) == 1
    assert auc(weak[0]) < auc(alone[0]) < 1.0
