"""K Gaussians with known means: a client's softmax weights by descent, likelihood, least squares.

X0 ~ sum_k pi_k N(mu_k, I), pi = softmax(logits); s(x, t) = sum_k r_k mu_k,t - x, where r_k is the
posterior probability of component k and mu_k,t = e^-t mu_k. A common rotation or shift of all means
changes neither the loss nor the likelihood. The means are therefore kept as K points of at most
K - 1 coordinates, and d no longer occurs. Errors are E ||pi_hat - pi||^2. Shapes: R replicates,
n samples, r coordinates, K components; x, z (r, R, n) and logits, weights (K, R). Components come
first, because softmax is fastest along the first dimension.
"""

import numpy as np
import torch
from torch import Tensor

from spire_core.mixture.estimators import draw_times
from spire_core.mixture.two_components import normals


def reduced_means(means: Tensor) -> Tensor:
    """Return the means (K, d) in coordinates of their own, (K, r) with r <= min(d, K - 1)."""
    u, sizes, _ = torch.linalg.svd(means - means.mean(0), full_matrices=False)
    return (u * sizes)[:, sizes > 1e-10 * sizes[0]]


def draw(
    weights: Tensor, means: Tensor, shape: tuple[int, int], generator: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Return samples (r, R, n) of weights (K,) and reduced means (K, r), and shares (K, R).

    The share of each component in the samples is the estimate that labels would give.
    """
    places = torch.from_numpy(generator.random(shape))
    chosen = torch.searchsorted(weights.cumsum(0), places).clamp(max=len(weights) - 1)
    shares = torch.stack([(chosen == k).double().mean(-1) for k in range(len(weights))])
    return normals(generator, means.shape[1], *shape) + means.T[:, chosen], shares


def log_densities(x: Tensor, means: Tensor) -> Tensor:
    """Return log N(x; mu_k, I) up to a term common to all k, (K, ...), for x (r, ...)."""
    return apply(means, x) - _column(0.5 * means.square().sum(-1), x)


def apply(matrix: Tensor, x: Tensor) -> Tensor:
    """Return matrix (K, r) times x (r, ...), as (K, ...)."""
    return (matrix @ x.flatten(1)).reshape(-1, *x.shape[1:])


def _column(values: Tensor, x: Tensor) -> Tensor:
    return values.reshape(-1, *[1] * (x.ndim - 1))


def logit_gradient(
    x: Tensor, z: Tensor, logits: Tensor, means: Tensor, signal: Tensor, sigma: Tensor
) -> Tensor:
    """Return sigma e^t times each sample's gradient of || s(xt, t) + z / sigma ||^2, (K, R, n).

    Its component for logit j is 2 r_j (mu_j - sum_k r_k mu_k).(sigma s + z). x, z (r, R, n);
    logits (K, R); signal = e^-t and sigma broadcast to (R, n). The factor sigma e^t keeps the
    result finite at both ends of t.
    """
    xt = signal * x + sigma * z
    energy = signal * apply(means, xt)
    energy -= signal.square() * _column(0.5 * means.square().sum(-1), x)
    r = torch.softmax(logits[..., None] + energy, 0)
    residual = sigma * (signal * apply(means.T, r) - xt) + z
    along = apply(means, residual)
    return 2.0 * r * (along - (r * along).sum(0))


def descend_logits_all_t(
    x: Tensor, means: Tensor, steps: int, averaged: int, generator: np.random.Generator
) -> Tensor:
    """Return weights (K, R) of descent on the loss integrated over t; its curvature is below 1/2.

    Times are drawn by `estimators.draw_times`, for the mean with the largest norm.
    """
    reach = float(means.square().sum(-1).max().sqrt())
    logits = torch.zeros(len(means), x.shape[1], dtype=x.dtype)
    total = torch.zeros_like(logits)
    for step in range(steps):
        signal, sigma, dv = draw_times(tuple(x.shape[1:]), reach, generator)
        z = normals(generator, *x.shape)
        logits -= 2.0 * (dv * logit_gradient(x, z, logits, means, signal, sigma)).mean(-1)
        if step >= steps - averaged:
            total += torch.softmax(logits, 0)
    return total / averaged


def likelihood_weights(densities: Tensor, steps: int, counts: Tensor | float = 1.0) -> Tensor:
    """Return the weights (K, R) of the highest likelihood by EM, for f_k(x_i) as (K, R, n).

    pi_k <- mean_i r_k(x_i). `counts` (R, n) says how often each x_i occurs, relative to their mean.
    The f_k may have a factor common to all k.
    """
    pi = torch.full(densities.shape[:2], 1.0 / len(densities), dtype=densities.dtype)
    for _ in range(steps):
        mixture = (pi[..., None] * densities).sum(0)
        pi = pi * (counts * densities / mixture).mean(-1)
    return pi


def simplex_cramer_rao(information: Tensor, n: int) -> float:
    """Return tr(V (V' J V)^-1 V') / n, the Cramer-Rao bound for weights that sum to 1.

    J (K, K) is Fisher's information E p_j p_k / q^2, with p_k the component's density and q the
    mixture's. V (K, K - 1) is an orthonormal basis of the vectors that sum to 0.
    """
    basis = torch.linalg.svd(torch.ones(1, len(information), dtype=information.dtype))[2][1:]
    return float(torch.linalg.inv(basis @ information @ basis.T).trace()) / n


def drawn_information(
    weights: Tensor, means: Tensor, generator: np.random.Generator, num: int = 200_000
) -> Tensor:
    """Return Fisher's information (K, K) on the weights, a mean over `num` draws."""
    x = draw(weights, means, (1, num), generator)[0][:, 0]
    ratio = torch.softmax(log_densities(x, means) + weights.log()[:, None], 0) / weights[:, None]
    return ratio @ ratio.T / num
