"""A line through points with intervals that allow for clusters: pure functions of numbers."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sweeps.report.stats import Estimate, t_quantile, t_tails

LEAST = 1e-6  # eigenvalues of 1 - leverage below this are zero


@dataclass(frozen=True)
class Point:
    """A value y at x; points of one cluster, such as a seed, may err together."""

    x: float
    y: float
    cluster: int


@dataclass(frozen=True)
class Line:
    """Intercept and slope with their 95 % intervals, and the p-value of no slope.

    `low` and `high` of both are the interval's ends, `num` is the number of clusters.
    """

    intercept: Estimate
    slope: Estimate
    slope_p: float


def fitted_line(points: Sequence[Point]) -> Line | None:
    """Return the least-squares line with cluster-robust intervals; None where it has none.

    The covariance is (X'X)^-1 sum_g X_g' A_g u_g u_g' A_g X_g (X'X)^-1 with A_g = (I - H_gg)^(-1/2)
    of the leverages H = X (X'X)^-1 X' (CR2, Bell & McCaffrey 2002), with Student's t at their
    degrees of freedom: clusters less one where each has the same x, and fewer where x differs
    between clusters alone. None where clusters cannot tell their own errors from the slope, such as
    two with one x each.
    """
    clusters = sorted({point.cluster for point in points})
    if len(points) < 3 or len(clusters) < 2 or len({point.x for point in points}) < 2:
        return None
    x = np.array([[1.0, point.x] for point in points])
    y = np.array([point.y for point in points])
    inverse = np.linalg.inv(x.T @ x)
    hat = x @ inverse @ x.T
    beta = inverse @ x.T @ y
    owner = np.array([point.cluster for point in points])
    # How the errors y - x beta of each cluster weigh in intercept and slope, (clusters, N, 2).
    weights = np.zeros((len(clusters), len(points), 2))
    for i, own in enumerate(owner == cluster for cluster in clusters):
        weights[i, own] = _adjusted(np.eye(own.sum()) - hat[np.ix_(own, own)]) @ x[own] @ inverse
    scores = np.einsum("gnk,n->gk", weights, y - x @ beta)
    made_of = np.einsum("nm,gmk->gnk", np.eye(len(points)) - hat, weights)
    found = []
    for k in (0, 1):
        products = made_of[:, :, k] @ made_of[:, :, k].T
        if np.trace(products) < 0.5 * inverse[k, k]:  # of the variance that it is to estimate
            return None
        freedom = float(np.trace(products) ** 2 / np.sum(products**2))
        found.append((float(beta[k]), float(np.linalg.norm(scores[:, k])), freedom))
    intercept, slope = (_estimate(b, t_quantile(f) * error, len(clusters)) for b, error, f in found)
    return Line(intercept, slope, _p(*found[1]))


def _adjusted(left: np.ndarray) -> np.ndarray:
    """Return left^(-1/2) of a symmetric matrix, without the directions in which it is zero."""
    values, vectors = np.linalg.eigh(left)
    roots = np.where(values > LEAST, np.maximum(values, LEAST) ** -0.5, 0.0)
    return vectors * roots @ vectors.T


def _estimate(mean: float, half: float, num: int) -> Estimate:
    return Estimate(mean, half, num, mean - half, mean + half)


def _p(mean: float, error: float, freedom: float) -> float:
    if error == 0:
        return 1.0 if mean == 0 else 0.0
    return t_tails(abs(mean) / error, freedom)
