"""How far pre-training clients cover a new one: distances between class mixtures.

A mixture of the conditional distributions that a backbone was trained on can be within reach of an
embedding, whereas one outside of their convex hull asks for an extrapolation. Mixtures are points
of the simplex over K classes; M of pre-training clients. Distances are in total variation, 0 to 1.
"""

from dataclasses import dataclass

import numpy as np

NEGLIGIBLE = 1e-12  # shares of classes below it count as none in a projection
NEWTON_STEPS = 30
BARRIERS = 0.1 ** np.arange(10.0)


@dataclass(frozen=True)
class Coverage:
    """The distances of one new client's mixture: to the hull, and to the nearest old client."""

    hull_tv: float
    nearest_tv: float


def coverages(class_counts: np.ndarray, num_old: int) -> list[Coverage]:
    """Return the coverage of each new client, from all clients' images per class (M + N, K).

    The first `num_old` are the pre-training clients. Empty if there is one class only.
    """
    if class_counts.shape[1] < 2:
        return []
    mixtures = class_counts / class_counts.sum(1, keepdims=True)
    return [coverage(mixtures[:num_old], mixture) for mixture in mixtures[num_old:]]


def coverage(mixtures: np.ndarray, target: np.ndarray) -> Coverage:
    """Return how far a mixture (K,) is from pre-training clients' mixtures (M, K), all sum to 1."""
    nearest = 0.5 * np.abs(mixtures - target).sum(1).min()
    return Coverage(min(hull_distance(mixtures, target), float(nearest)), float(nearest))


def hull_distance(mixtures: np.ndarray, target: np.ndarray) -> float:
    """Return the total variation between a mixture (K,) and the convex hull of others (M, K).

    The linear programme is: minimise the sum of u (K,) over weights w (M,) of the simplex, where
    -2 u <= w @ mixtures - target <= 2 u.
    """
    from scipy import sparse  # half a second, which the start of a run can do without
    from scipy.optimize import linprog

    num_clients, num_classes = mixtures.shape
    shares, u = sparse.csc_array(mixtures.T), -2.0 * sparse.eye_array(num_classes)
    weights_sum = np.concatenate([np.ones(num_clients), np.zeros(num_classes)])
    found = linprog(
        1.0 - weights_sum,  # the sum of u
        A_ub=sparse.block_array([[shares, u], [-shares, u]], format="csc"),
        b_ub=np.concatenate([target, -target]),
        A_eq=weights_sum[None],
        b_eq=[1.0],
    )
    return max(0.0, float(found.fun))


def kl_projection(mixtures: np.ndarray, target: np.ndarray, tolerance: float = 1e-4) -> np.ndarray:
    """Return the mixture (K,) of the hull nearest to a target (K,) in KL(target || mixture).

    Descent on the denoising loss over all t ends there, if an embedding can express any convex
    combination of old clients (M, K) and no more, and if classes do not overlap. The divergence is
    at most `tolerance` above the least. Raises ArithmeticError if the target has a class that no
    old client has: its divergence from the hull is infinite.

    By Newton's method on the dual problem, with a barrier: maximise sum_k target_k log v_k where
    mixtures @ v <= 1 (Lindsay 1983). Weights of old clients follow from the slacks, and the gap
    bounds the distance to the least divergence.
    """
    held = target > NEGLIGIBLE
    old, new = mixtures[:, held], target[held] / target[held].sum()
    v, gap = np.full(len(new), 0.5), np.inf
    for barrier in BARRIERS / len(old):
        v = _centre(old, new, v, barrier)
        weights = 1.0 / (1.0 - old @ v)
        reached = weights @ mixtures / weights.sum()
        gap = float((old @ (new / reached[held])).max()) - 1.0
        if gap <= tolerance:
            return reached
    raise ArithmeticError(f"expected a projection within {tolerance}, got {gap:.1e}")


def _centre(old: np.ndarray, new: np.ndarray, v: np.ndarray, barrier: float) -> np.ndarray:
    """Return the minimum v (K,) of -new @ log(v) - barrier sum log(1 - old @ v)."""

    def value(v: np.ndarray) -> float:
        slack = 1.0 - old @ v
        if min(v.min(), slack.min()) <= 0.0:
            return np.inf
        return float(-new @ np.log(v) - barrier * np.log(slack).sum())

    for _ in range(NEWTON_STEPS):
        part = old / (1.0 - old @ v)[:, None]
        gradient = barrier * part.sum(0) - new / v
        step = np.linalg.solve(np.diag(new / v**2) + barrier * part.T @ part, gradient)
        if gradient @ step <= 1e-6 * barrier:
            return v
        length = 1.0
        while value(v - length * step) > value(v) - 1e-4 * length * (gradient @ step):
            length *= 0.5
            if length < 1e-12:
                return v
        v = v - length * step
    return v
