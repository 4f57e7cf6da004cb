"""Estimators of the mixing weight without descent: from y, z (R, n) of `two_components` to (R,).

The moment and the single step are unbiased or nearly so, and may therefore leave [0, 1].
"""

import math

import torch
from torch import Tensor

from spire_core.mixture.numerics import bisect, line
from spire_core.mixture.two_components import (
    grad_h,
    log_odds,
    signal_and_noise,
    tanh_and_slope,
    weight,
)

MAX_STEPS = 40
EDGE = 1e-12
H_STEP = 0.2  # sech^2(u) has a width of about 1 in h


def moment(y: Tensor, m: float) -> Tensor:
    """Return 1/2 (1 + mean(y) / m), unbiased because E y = (2w - 1) m.

    For noised data pass y_t and m_t in place of y and m. For one coordinate instead of the
    projection pass that coordinate and its component of mu.
    """
    return 0.5 * (1.0 + y.mean(-1) / m)


def one_step(y: Tensor, z: Tensor, m: float, t: float) -> Tensor:
    """Return w after one gradient step on the loss at t from w = 1/2, of length 1 / (8 m_t^2).

    This length is the inverse of the curvature in w at 1/2 for m_t -> 0. It makes the step unbiased
    there, because dL/dw is then 8 m_t^2 (1/2 - w) on average.
    """
    m_t = signal_and_noise(t)[0] * m
    in_h, _ = grad_h(y, z, torch.zeros(len(y), 1, dtype=y.dtype), m, t)
    return 0.5 - 2.0 * in_h.squeeze(-1) / (8.0 * m_t**2)


def maximum_likelihood(y: Tensor, m: float | Tensor) -> Tensor:
    """Return the w that maximises sum log q_w(y): Newton's method between brackets.

    With p the posterior probability of the first component, the derivative of log q in w is
    p / w - (1 - p) / (1 - w). The second derivative is minus its square, so log q is concave in w.
    Bisection replaces a Newton step that leaves the bracket.
    """
    low, high = torch.zeros(len(y), 1, dtype=y.dtype), torch.ones(len(y), 1, dtype=y.dtype)
    w = torch.full_like(low, 0.5)
    for _ in range(MAX_STEPS):
        p = torch.sigmoid(2.0 * (m * y + log_odds(w)))
        ratio = p / w - (1.0 - p) / (1.0 - w)
        slope = ratio.mean(-1, keepdim=True)
        low, high = torch.where(slope > 0, w, low), torch.where(slope > 0, high, w)
        newton = w + slope / ratio.square().mean(-1, keepdim=True)
        inside = (newton > low) & (newton < high)
        new = torch.where(inside, newton, 0.5 * (low + high)).clamp(EDGE, 1.0 - EDGE)
        w, change = new, (new - w).abs().max()
        if change < EDGE:
            break
    return w.squeeze(-1)


def averaged_minimiser(y: Tensor, m: float | Tensor, t: float) -> Tensor:
    """Return the w (R,) that minimises the loss at t, averaged over all noise, of data y (R, n).

    The means are assumed at +-m, where m is a number or (R, 1). The result may be 0 or 1. Noised
    data have the density mean_i N(x; e^-t y_i, sigma^2).
    """
    signal, sigma = signal_and_noise(t)
    m_t = signal * torch.as_tensor(m, dtype=y.dtype).reshape(-1, 1)
    step = min(0.5 * sigma, 0.4 / float(m_t.max()))
    x = line(signal * float(y.abs().max()) + 8.0 * sigma, step)
    q = torch.zeros(len(y), len(x), dtype=y.dtype)
    for sample in (signal * y).unbind(1):
        q += torch.exp(-0.5 * ((x - sample[:, None]) / sigma).square())
    return minimiser_at_one_t(x, q * (step / (y.shape[1] * sigma * math.sqrt(2.0 * math.pi))), m_t)


def minimiser_at_one_t(x: Tensor, q: Tensor, m_t: Tensor) -> Tensor:
    """Return the w (R,) of the least loss at one t for noised data with shares q (R, X) at x (X,).

    With u = m_t x + h the loss of means at +-m is, up to a term without h, the integral of q G with
    G = -2 m_t x tanh(u) - m_t^2 tanh^2(u), whose derivative is -2 m_t sech^2(u) (x + m_t tanh(u)).
    It need not be convex in h, so a grid comes before bisection. Beyond the grid tanh(u) is
    constant wherever q has mass.
    """

    def loss(h: Tensor) -> Tensor:
        tanh, _ = tanh_and_slope(m_t * x + h)
        return (q * (-m_t * tanh * (2.0 * x + m_t * tanh))).sum(-1)

    def is_falling(h: Tensor) -> Tensor:
        tanh, slope = tanh_and_slope(m_t * x + h)
        return (q * slope * (x + m_t * tanh)).sum(-1, keepdim=True) > 0

    grid = line(float(m_t.max()) * float(x.abs().max()) + 5.0, H_STEP)
    best = grid[torch.stack([loss(h) for h in grid]).argmin(0)][:, None]
    return weight(bisect(is_falling, best - H_STEP, best + H_STEP)).squeeze(-1)
