"""K Gaussians with known means: what a client's softmax weights are recovered from, and how.

X0 ~ sum_k pi_k N(mu_k, I), pi = softmax(logits); s(x, t) = sum_k r_k mu_k,t - x, where r_k is the
chance that x is of component k and mu_k,t = e^-t mu_k. A rotation and a shift that all means share
change neither the loss nor the likelihood, so the means are kept as K points of at most K - 1
coordinates and d no longer occurs. Shapes: R replicates, n samples, r coordinates, K components.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from spire_core.errors import ConfigError
from spire_core.gmm import normals, signal_and_noise
from spire_core.gmm_descent import draw_times

LogitGradient = Callable[[Tensor], Tensor]
"""From logits (R, K) to the gradient (R, K), at the next draw of the noise."""


def reduced_means(means: Tensor) -> Tensor:
    """Return the means (K, d) in coordinates of their own, (K, r) with r <= min(d, K - 1).

    ConfigError for fewer than two means, for values not finite, and for two that coincide.
    """
    if means.ndim != 2 or len(means) < 2:
        raise ConfigError(
            f"expected at least K = 2 means of one dimension, got shape {tuple(means.shape)}: "
            "one component has no weight to recover"
        )
    if not bool(torch.isfinite(means).all()):
        raise ConfigError("expected means that are finite, got nan or inf: change them")
    distances = torch.cdist(means, means) + torch.diag(torch.full((len(means),), math.inf))
    if distances.min() <= 1e-9:
        raise ConfigError(
            f"expected distinct means, got two that coincide among {len(means)}: no data tell the "
            "weights of equal components apart"
        )
    u, sizes, _ = torch.linalg.svd(means - means.mean(0), full_matrices=False)
    kept = sizes > 1e-10 * sizes[0]
    return (u * sizes)[:, kept]


def draw_components(
    weights: Tensor, means: Tensor, shape: tuple[int, int], generator: np.random.Generator
) -> Tensor:
    """Return samples (R, n, r) of the mixture with weights (K,) and reduced means (K, r)."""
    chosen = generator.choice(len(weights), size=shape, p=weights.numpy())
    return means[torch.from_numpy(chosen)] + normals(generator, *shape, means.shape[1])


def logit_gradient(
    x: Tensor, z: Tensor, logits: Tensor, means: Tensor, signal: Tensor, sigma: Tensor
) -> Tensor:
    """Return sigma e^t times each sample's gradient of || s(xt, t) + z / sigma ||^2, (R, n, K).

    In logit j it is 2 r_j (mu_j - sum_k r_k mu_k).(sigma s + z). x, z (R, n, r); logits (R, K);
    signal = e^-t and sigma broadcast to (R, n, 1). The factor keeps both ends of t finite.
    """
    xt = signal * x + sigma * z
    energy = signal * (xt @ means.T) - 0.5 * signal.square() * means.square().sum(-1)
    r = torch.softmax(logits[:, None] + energy, -1)
    residual = sigma * (signal * (r @ means) - xt) + z
    along = residual @ means.T
    return 2.0 * r * (along - (r * along).sum(-1, keepdim=True))


def descend_logits_fixed_t(
    x: Tensor,
    means: Tensor,
    t: float,
    steps: int,
    averaged: int,
    generator: np.random.Generator,
) -> Tensor:
    """Return weights (R, K) of descent on the loss at t, with fresh noise, from equal weights.

    Steps are 1 / L, L = e^-2t / 2 times the largest eigenvalue of the Gram matrix of the centred
    means: the Jacobian of softmax has norm 1/2 at most, on both sides of 2 e^-2t G.
    """
    signal, sigma = (torch.tensor(v, dtype=x.dtype) for v in signal_and_noise(t))
    largest = 0.5 * signal.square() * torch.linalg.matrix_norm(means, 2).square()

    def gradient(logits: Tensor) -> Tensor:
        z = normals(generator, *x.shape)
        return (signal / sigma) * logit_gradient(x, z, logits, means, signal, sigma).mean(1)

    return _descend(gradient, 1.0 / float(largest), x, means, steps, averaged)


def descend_logits_all_t(
    x: Tensor, means: Tensor, steps: int, averaged: int, generator: np.random.Generator
) -> Tensor:
    """Return weights (R, K) of descent on the loss integrated over t; its curvature is below 1/2.

    Times are drawn as in `gmm_descent.draw_times`, for the mean that is farthest out.
    """
    reach = float(means.square().sum(-1).max().sqrt())

    def gradient(logits: Tensor) -> Tensor:
        signal, sigma, dv = draw_times((*x.shape[:2], 1), reach, generator)
        z = normals(generator, *x.shape)
        return (dv * logit_gradient(x, z, logits, means, signal, sigma)).mean(1)

    return _descend(gradient, 2.0, x, means, steps, averaged)


def _descend(
    gradient: LogitGradient, lr: float, x: Tensor, means: Tensor, steps: int, averaged: int
) -> Tensor:
    if not 1 <= averaged <= steps:
        raise ConfigError(f"expected averaged in 1..{steps}, got {averaged}: of the last steps")
    logits = torch.zeros(len(x), len(means), dtype=x.dtype)
    total = torch.zeros_like(logits)
    for step in range(steps):
        logits = logits - lr * gradient(logits)
        if step >= steps - averaged:
            total += torch.softmax(logits, -1)
    return total / averaged
