"""K components without descent: maximum likelihood, affine least squares, theoretical errors.

Errors are E ||pi_hat - pi||^2. Shapes as in `k_components`: x (r, R, n), means (K, r),
weights (K,).
"""

import numpy as np
import torch
from torch import Tensor

from spire_core.errors import ConfigError
from spire_core.mixture.k_components import densities, draw_components


def likelihood_weights(x: Tensor, means: Tensor, steps: int = 200) -> Tensor:
    """Return the weights (K, R) that maximise the likelihood, by EM: pi <- mean_i r_k(x_i)."""
    energy = densities(x, means)
    pi = torch.full((len(means), x.shape[1]), 1.0 / len(means), dtype=x.dtype)
    for _ in range(steps):
        pi = torch.softmax(energy + pi.log()[..., None], 0).mean(-1)
    return pi


def affine_weights(x: Tensor, means: Tensor) -> Tensor:
    """Return the weights (K, R), summing to 1, whose mean fits the data's mean by least squares.

    This is `estimators.moment` for K components. ConfigError unless the means are affinely
    independent, because otherwise the data's mean does not determine the weights.
    """
    if means.shape[1] < len(means) - 1:
        raise ConfigError(
            f"expected affinely independent means, got {len(means)} in {means.shape[1]} dimensions "
            "(collinear, or on a circle): a mean does not identify their weights, so leave out the "
            "affine method"
        )
    return 1.0 / len(means) + torch.linalg.pinv(means).T @ x.mean(-1)


def affine_error(weights: Tensor, means: Tensor, n: int) -> float:
    """Return (sum_k pi_k (1 - pi_k) + tr((P G P)^+)) / n, exact for `affine_weights`.

    G is the Gram matrix of the means and P = I - 11'/K; reduced means are centred, so P G P = G. G
    has rank K - 1 if the means are affinely independent. Otherwise the formula omits the directions
    that a mean does not determine, and is not the error of an estimator.
    """
    spread = (weights * (1.0 - weights)).sum()
    gram = means @ means.T
    return float(spread + torch.trace(torch.linalg.pinv(gram, rtol=1e-10, hermitian=True))) / n


def simplex_cramer_rao(
    weights: Tensor,
    means: Tensor,
    n: int,
    generator: np.random.Generator,
    num: int = 200_000,
) -> float:
    """Return tr(V (V' J V)^-1 V') / n, the Cramer-Rao bound for weights that sum to 1.

    J_jk = E p_j p_k / q^2 with p_k the component's density and q the mixture's. V (K, K - 1) is an
    orthonormal basis of the vectors that sum to 0. J is a mean over `num` draws. The bound is
    infinite if J is singular.
    """
    x = draw_components(weights, means, (1, num), generator)[:, 0]
    ratio = torch.softmax(densities(x, means) + weights.log()[:, None], 0) / weights[:, None]
    basis = torch.linalg.svd(torch.ones(1, len(weights), dtype=x.dtype))[2][1:]
    inside = basis @ (ratio @ ratio.T / num) @ basis.T
    values = torch.linalg.eigvalsh(inside)
    if values[0] <= 1e-12 * values[-1]:
        return float("inf")
    return float((1.0 / values).sum()) / n
