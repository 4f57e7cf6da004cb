"""Theoretical errors E (w_hat - w)^2 of the estimators from n samples: exact, or asymptotic."""

import math

import torch
from torch import Tensor

from spire_core.mixture.expected_loss import information, rate
from spire_core.mixture.numerics import mixture_nodes, normal_nodes
from spire_core.mixture.two_components import log_odds, signal_and_noise


def published_bound(w: float, m_t: float, d: int, n: int) -> float:
    """Return w (1 - w) / n + d / (4 m_t^2 n) (arXiv 2506.12303, theorem 4.2)."""
    return (w * (1.0 - w) + d / (4.0 * m_t**2)) / n


def moment_error(w: float, m_t: float, n: int) -> float:
    """Return w (1 - w) / n + 1 / (4 m_t^2 n), exact for the moment of (noised) projected data."""
    return published_bound(w, m_t, 1, n)


def one_step_error(w: float, m: float, t: float, n: int) -> float:
    """Return the exact error of `estimators.one_step`: squared bias + variance / n."""
    gradient, share = _gradients(w, m, t, torch.tensor(0.0, dtype=torch.float64))
    step = -gradient / (4.0 * (signal_and_noise(t)[0] * m) ** 2)
    mean = (share * step).sum()
    variance = (share * (step - mean).square()).sum()
    return float((0.5 + mean - w) ** 2 + variance / n)


def cramer_rao(w: float, m: float, n: int) -> float:
    """Return 1 / (n information): no unbiased estimator has a smaller error."""
    return 1.0 / (n * information(w, m))


def fixed_t_error(w: float, m: float, t: float, n: int, draws: float = math.inf) -> float:
    """Return the asymptotic variance of the minimiser of the loss at t, the sandwich B / (A^2 n).

    A = 2 m_t^2 E sech^4(u) is the curvature in h. B is the variance of a sample's gradient in h,
    averaged over `draws` draws of noise: 1 for fixed noise, the number of averaged iterates for
    fresh noise. The error in w follows from dw/dh = 2 w (1 - w).
    """
    gradient, share = _gradients(w, m, t, log_odds(torch.tensor(w, dtype=torch.float64)))
    of_y = share.sum(1)
    mean = (share * gradient).sum(1) / of_y
    between = (of_y * mean.square()).sum()
    within = (share * (gradient - mean[:, None]).square()).sum()
    m_t = signal_and_noise(t)[0] * m
    a = 2.0 * m_t**2 * rate(w, m_t)
    return float((between + within / draws) * (2.0 * w * (1.0 - w) / a) ** 2 / n)


def _gradients(w: float, m: float, t: float, h: Tensor) -> tuple[Tensor, Tensor]:
    """Return a sample's term of `two_components.grad_h` at nodes of (y, z), and their shares."""
    signal, sigma = signal_and_noise(t)
    m_t = signal * m
    y, of_y = mixture_nodes(w, m, m_t)
    kept = of_y > 1e-20
    z, of_z = normal_nodes(min(0.05, 0.3 / m_t))
    y_t = signal * y[kept, None] + sigma * z
    tanh = torch.tanh(m_t * y_t + h)
    gradient = 2.0 * m_t * (1.0 - tanh.square()) * (m_t * tanh - y_t + z / sigma)
    return gradient, of_y[kept, None] * of_z
