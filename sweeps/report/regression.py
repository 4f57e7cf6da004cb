"""A line through points with intervals that allow for clusters: pure functions of numbers."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sweeps.report.stats import Estimate, t_probability, t_quantile


@dataclass(frozen=True)
class Point:
    """A value y at x; points of one cluster, such as a seed, may err together."""

    x: float
    y: float
    cluster: int


@dataclass(frozen=True)
class Line:
    """Intercept and slope with their 95 % intervals, and the p-value of no slope.

    `low` and `high` of both are the interval's ends.
    """

    intercept: Estimate
    slope: Estimate
    slope_p: float


def fitted_line(points: Sequence[Point]) -> Line | None:
    """Return the least-squares line with cluster-robust intervals; None where it has none.

    The covariance is (X'X)^-1 sum_g X_g' u_g u_g' X_g (X'X)^-1, times G / (G - 1) (N - 1) / (N - 2)
    for G clusters and N points, with Student's t at G - 1 degrees of freedom (Cameron & Miller
    2015, section VI). It takes two clusters, three points and two values of x.
    """
    clusters = sorted({point.cluster for point in points})
    num, num_clusters = len(points), len(clusters)
    if num < 3 or num_clusters < 2 or len({point.x for point in points}) < 2:
        return None
    x = np.array([[1.0, point.x] for point in points])
    y = np.array([point.y for point in points])
    inverse = np.linalg.inv(x.T @ x)
    beta = inverse @ x.T @ y
    left = y - x @ beta
    owner = np.array([point.cluster for point in points])
    scores = np.array([x[owner == g].T @ left[owner == g] for g in clusters])
    correction = num_clusters / (num_clusters - 1) * (num - 1) / (num - 2)
    covariance = correction * inverse @ scores.T @ scores @ inverse
    errors = [math.sqrt(max(0.0, float(variance))) for variance in np.diag(covariance)]
    freedom = num_clusters - 1
    intercept, slope = (
        _estimate(float(b), t_quantile(freedom) * error, num)
        for b, error in zip(beta, errors, strict=True)
    )
    return Line(intercept, slope, _p(slope.mean, errors[1], freedom))


def _estimate(mean: float, half: float, num: int) -> Estimate:
    return Estimate(mean, half, num, mean - half, mean + half)


def _p(mean: float, error: float, freedom: int) -> float:
    if error == 0:
        return 1.0 if mean == 0 else 0.0
    return 1 - t_probability(abs(mean) / error, freedom)
