"""How far pre-training clients cover a new one: distances between class mixtures.

A mixture of the conditional distributions that a backbone was trained on can be within reach of an
embedding, whereas one outside of their convex hull asks for an extrapolation. Mixtures are points
of the simplex over K classes; M of pre-training clients. Distances are in total variation, 0 to 1.
"""

from dataclasses import dataclass

import numpy as np

from spire_core.errors import ConfigError

EM_STEPS = 20_000
EM_CHECK = 50  # steps from one look at the gap to the next


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
    from scipy.optimize import linprog  # half a second, which the start of a run can do without

    num_clients, num_classes = mixtures.shape
    above = np.hstack([mixtures.T, -2.0 * np.eye(num_classes)])
    below = np.hstack([-mixtures.T, -2.0 * np.eye(num_classes)])
    weights_sum = np.concatenate([np.ones(num_clients), np.zeros(num_classes)])
    found = linprog(
        1.0 - weights_sum,  # the sum of u
        A_ub=np.vstack([above, below]),
        b_ub=np.concatenate([target, -target]),
        A_eq=weights_sum[None],
        b_eq=[1.0],
    )
    if not found.success:  # never seen: it is feasible and bounded
        raise ArithmeticError(f"expected an optimum of a feasible programme, got {found.message}")
    return max(0.0, float(found.fun))


def kl_projection(
    mixtures: np.ndarray, targets: np.ndarray, tolerance: float = 1e-4
) -> tuple[np.ndarray, float]:
    """Return the mixtures (N, K) of the hull nearest to targets (N, K) in KL(target || mixture).

    Descent on the denoising loss over all t ends there, if an embedding can express any convex
    combination of old clients (M, K) and no more, and if classes do not overlap. EM over the M
    weights stops at `tolerance`, by a bound on what KL can still fall: max_j E f_j / q - 1. The
    bound reached is returned too. Raises ConfigError if a target has a class that no old client
    has: its divergence from the hull is infinite.
    """
    if not mixtures.max(0)[targets.max(0) > 0].all():
        raise ConfigError("expected classes that old clients have, got others: leave them out")
    weights = np.full((len(targets), len(mixtures)), 1.0 / len(mixtures))
    gap = np.inf
    for step in range(EM_STEPS):
        reached = weights @ mixtures
        ratios = np.divide(targets, reached, out=np.zeros_like(targets), where=targets > 0)
        gains = ratios @ mixtures.T
        if step % EM_CHECK == 0 and (gap := float(gains.max() - 1.0)) <= tolerance:
            break
        weights *= gains
    return weights @ mixtures, gap
