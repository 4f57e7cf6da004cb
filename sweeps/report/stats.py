"""Means over seeds with their 95 % intervals, and differences of pairs: pure functions of numbers.

The interval is Student's: mean +- t s / sqrt(n), with s the standard deviation over n seeds and t
the 97.5 % quantile at n - 1 degrees of freedom.
"""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist, fmean, stdev
from typing import TypeVar

CONFIDENCE = 0.95
LEAST_P = 1e-9  # a p-value of 0 has no normal score
Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds; `half_width` of its interval is None where there is one value only."""

    mean: float
    half_width: float | None
    num: int
    low: float  # the lowest and highest of the values
    high: float
    missing: int = 0  # seeds that have no such value

    def scaled(self, factor: float) -> "Estimate":
        """Return the estimate of `factor` > 0 times what this one is of."""
        half = None if self.half_width is None else factor * self.half_width
        ends = (factor * self.low, factor * self.high)
        return Estimate(factor * self.mean, half, self.num, *ends, self.missing)


def estimate(values: Sequence[float], missing: int = 0) -> Estimate | None:
    """Return the mean of values over seeds and its interval; None without any value."""
    if not values:
        return None
    num, half_width = len(values), None
    if num > 1:
        half_width = t_quantile(num - 1) * stdev(values) / math.sqrt(num)
    return Estimate(fmean(values), half_width, num, min(values), max(values), missing)


def greatest(values: Sequence[float], missing: int = 0) -> Estimate | None:
    """Return the highest of values over seeds, without an interval where they differ.

    Of guarantees such as epsilon it is the one that holds for all; a mean is none.
    """
    found = estimate(values, missing)
    if found is None or found.low == found.high:
        return found
    return replace(found, mean=found.high, half_width=None)


def combined_p(values: Sequence[float], missing: int = 0) -> Estimate | None:
    """Return the p-value of several independent ones (Stouffer), without an interval.

    A p-value of 1 has no normal score. It counts as the next lower one that random exchanges can
    give, as far from 1 as the least one is from 0, so that it does not outweigh all others.
    """
    from spire_core.evaluation.memorisation import NUM_EXCHANGES  # with torch, as late as scipy

    if not values:
        return None
    normal, most = NormalDist(), NUM_EXCHANGES / (NUM_EXCHANGES + 1)
    scores = [normal.inv_cdf(1 - min(max(p, LEAST_P), most)) for p in values]
    p = math.erfc(sum(scores) / math.sqrt(2 * len(scores))) / 2  # exact where it is tiny
    return Estimate(p, None, len(values), min(values), max(values), missing)


def two_sided_p(difference: Estimate) -> float | None:
    """Return Student's p-value for a mean difference of zero; None without an interval."""
    scale = _standard_error(difference)
    if scale is None:
        return None
    if scale == 0:
        return 1.0 if difference.mean == 0 else 0.0
    return t_tails(abs(difference.mean) / scale, difference.num - 1)


def equivalence_p(difference: Estimate, limit: float) -> float | None:
    """Return the p-value of two one-sided tests (Schuirmann 1987) for a mean beyond +-`limit`.

    Below 5 % the 90 % interval lies within the limits. None without an interval.
    """
    scale = _standard_error(difference)
    if scale is None:
        return None
    inside = limit - abs(difference.mean)  # to the nearer limit, which decides
    if scale == 0:
        return 0.0 if inside > 0 else 1.0
    outside = t_tails(abs(inside) / scale, difference.num - 1) / 2
    return outside if inside > 0 else 1 - outside


def _standard_error(difference: Estimate) -> float | None:
    if difference.half_width is None:
        return None
    return difference.half_width / t_quantile(difference.num - 1)


def holm(values: Sequence[float | None]) -> list[float | None]:
    """Return p-values corrected for their number (Holm 1979), in their order.

    A test that could not be made counts as one that could: its number is None and stays so.
    """
    order = sorted((p, i) for i, p in enumerate(values) if p is not None)
    corrected: list[float | None] = [None] * len(values)
    highest = 0.0
    for rank, (p, i) in enumerate(order):
        highest = max(highest, min(1.0, (len(values) - rank) * p))
        corrected[i] = highest
    return corrected


def holm_within(families: Sequence[Hashable], ps: Sequence[float | None]) -> list[float | None]:
    """Return p-values with `holm`'s correction among those of the same family."""
    corrected: list[float | None] = [None] * len(ps)
    for family in dict.fromkeys(families):
        places = [i for i, own in enumerate(families) if own == family]
        for i, p in zip(places, holm([ps[i] for i in places]), strict=True):
            corrected[i] = p
    return corrected


def paired(theirs: Mapping[Key, float], ours: Mapping[Key, float]) -> Estimate | None:
    """Return the mean of `theirs` minus `ours` over the keys that both have."""
    return estimate([theirs[key] - ours[key] for key in theirs if key in ours])


def log_ratios(theirs: Mapping[Key, float], ours: Mapping[Key, float]) -> dict[Key, float]:
    """Return log(theirs / ours) of the keys that both have.

    Empty if one of these scores is not above zero.
    """
    both = {key: (theirs[key], ours[key]) for key in theirs if key in ours}
    if any(min(pair) <= 0 for pair in both.values()):
        return {}
    return {key: math.log(first) - math.log(second) for key, (first, second) in both.items()}


def paired_logs(theirs: Mapping[Key, float], ours: Mapping[Key, float]) -> Estimate | None:
    """Return the mean of log(theirs / ours) as `log_ratios`; None where there are none."""
    return estimate([*log_ratios(theirs, ours).values()])


def verdict(difference: Estimate) -> str:
    """Return `lower` or `higher` where the interval excludes zero, else `cannot tell`."""
    if difference.half_width is None or abs(difference.mean) <= difference.half_width:
        return "cannot tell"
    return "lower" if difference.mean < 0 else "higher"


def t_quantile(freedom: float) -> float:
    """Return t with P(|T| <= t) = 95 % for Student's T of `freedom` degrees."""
    from scipy.special import stdtrit  # with the first number, not with the command line

    return float(stdtrit(freedom, (1 + CONFIDENCE) / 2))


def t_tails(t: float, freedom: float) -> float:
    """Return P(|T| >= t) for Student's T, exact where it is tiny."""
    from scipy.special import stdtr

    return float(2 * stdtr(freedom, -t))
