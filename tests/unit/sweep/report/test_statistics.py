"""Intervals and paired comparisons against scipy and by hand."""

import math
import random

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from sweeps.report.compare import half_interval, holm, paired
from sweeps.report.tables import means

PAIRS = ["0 a", "1 b", "2 c"]


def series(*values: float) -> pd.Series:
    return pd.Series(values, PAIRS[: len(values)])


@pytest.mark.parametrize("num", [2, 3, 8, 31])
def test_an_interval_is_students(num: int) -> None:
    rng = random.Random(num)
    values = pd.Series([rng.gauss(1.0, 2.0) for _ in range(num)])
    ends = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert half_interval(values) == pytest.approx((ends.high - ends.low) / 2, rel=1e-12)
    assert math.isnan(half_interval(values[:1]))


def test_differences_are_those_of_pairs() -> None:
    """Student's t is 4.303 at two degrees of freedom, of differences 0.5, 0.5 and 0.8."""
    ours = series(1.0, 2.0, 3.0)
    theirs = series(1.5, 2.5, 3.8)[::-1]  # the order of pairs does not matter
    row = paired(theirs, ours, "difference", 0.1)
    assert (row["n"], row["effect"]) == (3, pytest.approx(0.6))
    assert row["half"] == pytest.approx(0.430265, abs=1e-6)
    assert (row["low"], row["high"]) == (
        pytest.approx(0.169735, abs=1e-6),
        pytest.approx(1.030265, abs=1e-6),
    )
    assert row["p"] == pytest.approx(stats.ttest_rel(theirs[ours.index], ours).pvalue)
    assert paired(theirs[:2], ours, "difference")["n"] == 2
    assert paired(series(), ours) == {"scale": "ratio", "n": 0}


def test_a_ratio_is_the_mean_of_logarithms() -> None:
    row = paired(series(2.0, 4.0, 9.0), series(1.0, 2.0, 3.0))
    assert (row["scale"], row["middle"]) == ("ratio", pytest.approx((2 * 2 * 3) ** (1 / 3)))
    assert row["p"] == pytest.approx(stats.ttest_1samp(np.log([2, 2, 3]), 0).pvalue)
    assert row["low"] < row["middle"] < row["high"]


def test_a_score_that_is_not_above_zero_has_a_difference_and_no_ratio() -> None:
    theirs, ours = series(0.1, -0.1), series(0.2, 0.1)
    assert paired(theirs, ours)["scale"] == "difference"
    assert paired(theirs, ours, "ratio") == {"scale": "ratio", "n": 2}


def test_pairs_that_all_differ_alike_leave_no_doubt_and_one_pair_says_nothing() -> None:
    half = {"theirs": series(1.5, 2.5), "ours": series(1.0, 2.0)}
    found = [paired(**half, scale="difference", limit=limit) for limit in (0.6, 0.4)]
    assert [(row["p"], row["match"]) for row in found] == [(0, 0), (0, 1)]
    assert paired(series(1.0, 2.0), series(1.0, 2.0), "ratio", 0.1)["p"] == 1
    assert "p" not in paired(series(1.5), series(1.0))


def test_scores_match_by_two_one_sided_tests() -> None:
    rng = random.Random(3)
    ours = pd.Series([1 + rng.random() for _ in range(8)])
    theirs = ours + pd.Series([rng.gauss(0.02, 0.05) for _ in range(8)])
    row = paired(theirs, ours, "difference", 0.1)
    below = stats.ttest_1samp(theirs - ours, 0.1, alternative="less").pvalue
    above = stats.ttest_1samp(theirs - ours, -0.1, alternative="greater").pvalue
    assert row["match"] == pytest.approx(max(below, above), rel=1e-9)


def test_holm_by_hand() -> None:
    """Times 4, 3, 2 and 1 from the smallest on, never below the one before."""
    assert holm([0.03, 0.01, 0.04, 0.005]) == pytest.approx([0.06, 0.03, 0.06, 0.02])
    assert [*holm([0.9, 0.6])] == [1.0, 1.0]
    counted, unknown = holm([0.02, math.nan])  # one that could not be made counts
    assert (counted, math.isnan(unknown)) == (0.04, True)
    assert [*holm([])] == []


def test_p_values_of_seeds_are_combined() -> None:
    def combined(*values: float) -> float:
        runs = pd.DataFrame({"method": "spire", "nn_p": values})
        return means(runs, {"p": "nn_p"}, ["method"]).p[0]

    expected = stats.combine_pvalues([0.01, 0.2, 0.5], "stouffer").pvalue
    assert combined(0.01, 0.2, math.nan, 0.5) == pytest.approx(expected)
    assert 0.5 < combined(0.5, 1.0) < 1, "1 does not outweigh all others"
