"""Means over seeds with Student's 95 % intervals, paired comparisons and Holm's correction."""

from typing import Any

import numpy as np
import pandas as pd
from scipy import stats
from scipy.special import stdtrit

CONFIDENCE = 0.95
LEAST_P = 1e-9  # a p-value of 0 has no normal score
HALF = ": half interval"  # the end of the name of an interval's column, beside its mean's
NUM = ": n"


def half_interval(values: pd.Series) -> float:
    """Return half of the interval of a mean, t s / sqrt(n); NaN of one value."""
    num, error = values.count(), float(np.asarray(values.sem()))
    return float(stdtrit(num - 1, (1 + CONFIDENCE) / 2)) * error if num > 1 else np.nan


def combined_p(values: pd.Series, num_exchanges: int) -> float:
    """Return the p-value of several independent ones (Stouffer).

    A p-value of 1 has no normal score: it counts as the next lower one of `num_exchanges`.
    """
    known = values.dropna().clip(LEAST_P, num_exchanges / (num_exchanges + 1))
    if known.empty:
        return np.nan
    found: Any = stats.combine_pvalues(known, "stouffer")
    return float(found.pvalue)


def paired(
    theirs: pd.Series, ours: pd.Series, scale: str = "", limit: float = np.nan
) -> dict[str, Any]:
    """Return how scores differ on the pairs that both have, as the cells of a row.

    With the scale "ratio" the effect is the mean of log(theirs / ours), and low, middle and high
    are ratios; with "difference" it is theirs - ours. Without a scale it is the ratio if all scores
    are above zero. p: Student's test of no effect. match: two one-sided tests (Schuirmann 1987) of
    one beyond +-`limit`. Without two pairs there is neither, nor a ratio of scores below zero.
    """
    both = pd.concat({"theirs": theirs, "ours": ours}, axis=1, join="inner").dropna()
    has_ratio = bool((both > 0).all(axis=None))
    scale = scale or ("ratio" if has_ratio else "difference")
    row: dict[str, Any] = {"scale": scale, "n": len(both)}
    if both.empty or (scale == "ratio" and not has_ratio):
        return row
    logs = both.apply(np.log) if scale == "ratio" else both
    effect, back = logs["theirs"] - logs["ours"], np.exp if scale == "ratio" else float
    row |= {"effect": effect.mean(), "middle": back(effect.mean())}
    if len(effect) < 2:
        return row
    half = half_interval(effect)
    row |= {"half": half, "low": back(row["effect"] - half), "high": back(row["effect"] + half)}
    if effect.nunique() == 1:  # of pairs that all differ alike there is no doubt
        alike = effect.iloc[0]
        return row | {"p": float(alike == 0), "match": float(abs(alike) >= limit)}
    test: Any = stats.ttest_1samp
    below = test(effect, limit, alternative="less").pvalue
    above = test(effect, -limit, alternative="greater").pvalue
    return row | {"p": test(effect, 0).pvalue, "match": max(below, above)}


def holm(values: Any) -> np.ndarray:
    """Return p-values corrected for their number (Holm 1979); NaN counts, and stays."""
    p = np.asarray(values, float)
    order = np.argsort(p)
    corrected = np.empty_like(p)
    corrected[order] = np.minimum(1, np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)))
    return corrected
