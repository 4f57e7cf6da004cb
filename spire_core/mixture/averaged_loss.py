"""The loss at one t averaged over all noise, and its global minimiser in the log-odds.

Noised data have the density q(x) = mean_i N(x; e^-t y_i, sigma^2). With u = m_t x + h, the averaged
loss of means at +-m is, up to a term without h, the integral of q(x) G(x, h) with
G = -2 m_t x tanh(u) - m_t^2 tanh^2(u). Its derivative is the integrand of
`bridge.denoising_gradient`, -2 m_t sech^2(u) (x + m_t tanh(u)). The loss need not be convex in h.
Shapes: R replicates, n samples, X nodes; y (R, n), x (X,), q (R, X).
"""

import math

import torch
from torch import Tensor

from spire_core.mixture.inexact_means import Line
from spire_core.mixture.two_components import signal_and_noise, tanh_and_slope, weight

REACH = 8.0  # standard deviations
H_STEP = 0.2  # sech^2(u) has a width of about 1 in h
BISECTIONS = 40


def averaged_minimiser(y: Tensor, m: float | Tensor, t: float) -> Tensor:
    """Return the w (R,) that minimises the loss at t, averaged over all noise, of data y (R, n).

    The means are assumed at +-m, where m is a number or (R, 1). The result may be 0 or 1.
    """
    signal, sigma = signal_and_noise(t)
    m_t = signal * torch.as_tensor(m, dtype=y.dtype).reshape(-1, 1)
    far = signal * float(y.abs().max()) + REACH * sigma
    x, step = _nodes(far, sigma, float(m_t.max()))
    q = torch.zeros(len(y), len(x), dtype=y.dtype)
    for sample in (signal * y).unbind(1):
        q += torch.exp(-0.5 * ((x - sample[:, None]) / sigma).square())
    q *= step / (y.shape[1] * sigma * math.sqrt(2.0 * math.pi))
    return _minimiser(x, q, m_t)


def limit_at_one_t(w: float, line: Line, t: float) -> Tensor:
    """Return the limit (R,) of `averaged_minimiser` for n -> inf on a backbone's line.

    The data of weight w have their means at `line.first` and `line.second`, and the loss has its at
    +-`line.m`.
    """
    signal, _ = signal_and_noise(t)
    m_t, first, second = (signal * place for place in line)
    far = float(torch.maximum(first.abs(), second.abs()).max()) + REACH
    x, step = _nodes(far, 1.0, float(m_t.max()))
    bells = [torch.exp(-0.5 * (x - place).square()) for place in (first, second)]
    q = (w * bells[0] + (1.0 - w) * bells[1]) * (step / math.sqrt(2.0 * math.pi))
    return _minimiser(x, q, m_t)


def _nodes(far: float, width: float, m_t: float) -> tuple[Tensor, float]:
    """Return nodes of the trapezoid rule in [-far, far] and their distance.

    The rule's error falls exponentially with the distance: 1e-17 for a bell at half of its width,
    and 1e-10 for tanh(m_t x) at 0.4 / m_t.
    """
    step = min(0.5 * width, 0.4 / m_t)
    return torch.arange(-far, far + step, step, dtype=torch.float64), step


def _minimiser(x: Tensor, q: Tensor, m_t: Tensor) -> Tensor:
    """Return the w (R,) of the least loss on a grid of h, refined by bisection of its derivative.

    Beyond the grid tanh(u) is constant wherever q has mass.
    """
    reach = float(m_t.max()) * float(x.abs().max()) + 5.0
    grid = torch.arange(-reach, reach + H_STEP, H_STEP, dtype=x.dtype)
    losses = torch.stack([_loss(x, q, m_t, h) for h in grid])
    best = grid[losses.argmin(0)][:, None]
    low, high = best - H_STEP, best + H_STEP
    for _ in range(BISECTIONS):
        middle = 0.5 * (low + high)
        tanh, slope = tanh_and_slope(m_t * x + middle)
        is_falling = (q * slope * (x + m_t * tanh)).sum(-1, keepdim=True) > 0
        low, high = torch.where(is_falling, middle, low), torch.where(is_falling, high, middle)
    return weight(0.5 * (low + high)).squeeze(-1)


def _loss(x: Tensor, q: Tensor, m_t: Tensor, h: Tensor) -> Tensor:
    tanh, _ = tanh_and_slope(m_t * x + h)
    return (q * (-m_t * tanh * (2.0 * x + m_t * tanh))).sum(-1)
