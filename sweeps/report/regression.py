"""Lines through points, with intervals that allow for clusters: pure functions of numbers.

`fitted_line` is least squares, `mixed_line` a mixed model with a random intercept.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sweeps.report.stats import Estimate, t_quantile, t_tails

LEAST = 1e-6  # eigenvalues of 1 - leverage below this are zero
OWNERS = ("cluster", "stratum")  # which make a block of points
MOST_COMMON = 0.99  # share of the variance that points of one block may have in common


@dataclass(frozen=True)
class Point:
    """A value y at x; points of one cluster, such as a seed, may err together.

    Points of each stratum, such as a world, have an intercept of their own.
    """

    x: float
    y: float
    cluster: int
    stratum: int = 0


@dataclass(frozen=True)
class Line:
    """Intercept and slope with their 95 % intervals, and the p-value of no slope.

    `low` and `high` of both are the interval's ends, `num` is the number of clusters. The intercept
    is None where strata have one each. `freedom`: degrees of freedom of the slope's interval.
    `common`: the share of the variance about the line that points of one cluster and stratum have
    in common.
    """

    intercept: Estimate | None
    slope: Estimate
    slope_p: float
    freedom: float
    common: float = 0.0


def fitted_line(points: Sequence[Point], common: float = 0.0) -> Line | None:
    """Return the line of least squares with cluster-robust intervals; None where it has none.

    The covariance is (X'X)^-1 sum_g X_g' A_g u_g u_g' A_g X_g (X'X)^-1 with A_g = (I - H_gg)^(-1/2)
    of the leverages H = X (X'X)^-1 X' (CR2, Bell & McCaffrey 2002), with Student's t at their
    degrees of freedom: clusters less one where each has the same x, and fewer where x differs
    between clusters alone. None where clusters cannot tell their own errors from the slope, such as
    two with one x each. With `common`, points of one cluster and stratum share that part of their
    errors' variance: X and y are first multiplied by the symmetric root of the inverse covariance.
    """
    clusters = sorted({point.cluster for point in points})
    if len(clusters) < 2:
        return None
    x, y = _Design.of(points).whitened(common)
    if len(points) <= x.shape[1] or np.linalg.matrix_rank(x) < x.shape[1]:
        return None
    inverse = np.linalg.inv(x.T @ x)
    hat = x @ inverse @ x.T
    beta = inverse @ x.T @ y
    owner = np.array([point.cluster for point in points])
    # How the errors y - x beta of each cluster weigh in each coefficient, (clusters, N, K).
    weights = np.zeros((len(clusters), *x.shape))
    for i, own in enumerate(owner == cluster for cluster in clusters):
        weights[i, own] = _adjusted(np.eye(own.sum()) - hat[np.ix_(own, own)]) @ x[own] @ inverse
    scores = np.einsum("gnk,n->gk", weights, y - x @ beta)
    made_of = np.einsum("nm,gmk->gnk", np.eye(len(points)) - hat, weights)
    found = []
    asked = range(2) if x.shape[1] == 2 else [x.shape[1] - 1]  # strata have intercepts of their own
    for k in asked:
        products = made_of[:, :, k] @ made_of[:, :, k].T
        if np.trace(products) < 0.5 * inverse[k, k]:  # of the variance that it is to estimate
            return None
        freedom = float(np.trace(products) ** 2 / np.sum(products**2))
        found.append((float(beta[k]), float(np.linalg.norm(scores[:, k])), freedom))
    *starts, slope = (_estimate(b, t_quantile(f) * error, len(clusters)) for b, error, f in found)
    return Line(starts[0] if starts else None, slope, _p(*found[-1]), found[-1][-1], common)


def mixed_line(points: Sequence[Point]) -> Line | None:
    """Return the line of a mixed model; None where it has none.

    The model is y = stratum + slope * x + (1 | stratum and cluster) + error, with the share of the
    random intercept's variance by restricted maximum likelihood (Patterson & Thompson 1971) and the
    intervals of `fitted_line`, which hold whatever else a cluster's points have in common.
    """
    from scipy.optimize import minimize_scalar  # with the first line, not with the command line

    if fitted_line(points) is None:
        return None
    design = _Design.of(points)
    found: Any = minimize_scalar(design.deviance, bounds=(0.0, MOST_COMMON), method="bounded")
    # All shares are alike where each block has one point.
    is_better = found.fun < design.deviance(0.0) - LEAST
    return fitted_line(points, float(found.x) if is_better else 0.0)


@dataclass(frozen=True)
class _Design:
    """Points as arrays: intercepts of strata and x as columns (N, K), y (N,), and their blocks.

    `same` (N, N) is 1 where two points share cluster and stratum, `size` (N,) the number of those.
    """

    x: np.ndarray
    y: np.ndarray
    same: np.ndarray
    size: np.ndarray

    @classmethod
    def of(cls, points: Sequence[Point]) -> "_Design":
        cluster, stratum = (np.array([getattr(p, k) for p in points]) for k in OWNERS)
        same = (cluster[:, None] == cluster) & (stratum[:, None] == stratum)
        starts = (stratum[:, None] == np.unique(stratum)).astype(float)
        x = np.column_stack([starts, [point.x for point in points]])
        return cls(x, np.array([p.y for p in points]), same.astype(float), same.sum(axis=1))

    def whitened(self, common: float) -> tuple[np.ndarray, np.ndarray]:
        """Return x and y times V^(-1/2), where V is 1 + weight * (same block)."""
        # V is 1 + weight * size along a block's mean, and 1 across it.
        shrink = (1 - (1 + _weight(common) * self.size) ** -0.5) / self.size
        root = np.eye(len(self.y)) - shrink[:, None] * self.same
        return root @ self.x, root @ self.y

    def deviance(self, common: float) -> float:
        """Return -2 log of the restricted likelihood, but for a constant."""
        x, y = self.whitened(common)
        left = y - x @ np.linalg.lstsq(x, y, rcond=None)[0]
        # Of V; each block counts once.
        spread = np.sum(np.log1p(_weight(common) * self.size) / self.size)
        error = max(float(left @ left), np.finfo(float).tiny)
        return float(spread + np.linalg.slogdet(x.T @ x)[1] + (len(y) - x.shape[1]) * np.log(error))


def _weight(common: float) -> float:
    """Return the variance that a block shares, by that of its points' own errors."""
    return common / (1 - common)


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
