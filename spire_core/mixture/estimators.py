"""Estimators of the mixing weight from y, z (R, n) of `two_components`: without descent, and by it.

The moment is unbiased, and may therefore leave [0, 1]. Descent is gradient descent on the denoising
objective in the log-odds of the mixing weight. There are two objectives: the loss at one fixed t,
and its integral over all t. Shapes: w, h, gradient, curvature (R, 1); estimates (R,).
"""

import math
from collections.abc import Callable, Iterator
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from spire_core.mixture.numerics import bisect, line
from spire_core.mixture.two_components import (
    grad_h,
    log_odds,
    normals,
    signal_and_noise,
    tanh_and_slope,
    weight,
)

MAX_STEPS = 40
EDGE = 1e-12  # estimates stay this far inside [0, 1], where log-odds are finite
H_STEP = 0.2  # sech^2(u) has a width of about 1 in h
NUM_TIMES = 256
Gradient = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Maps h to the gradient in h and a bound on its curvature, with the next draw of the noise."""


def moment(y: Tensor, m: float) -> Tensor:
    """Return 1/2 (1 + mean(y) / m), unbiased because E y = (2w - 1) m.

    For noised data pass y_t and m_t in place of y and m. For one coordinate instead of the
    projection pass that coordinate and its component of mu.
    """
    return 0.5 * (1.0 + y.mean(-1) / m)


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
    data have the density q = mean_i N(x; e^-t y_i, sigma^2). With u = m_t x + h the loss is, up to
    a term without h, the integral of q G with G = -2 m_t x tanh(u) - m_t^2 tanh^2(u), whose
    derivative is -2 m_t sech^2(u) (x + m_t tanh(u)). It need not be convex in h, so a grid comes
    before bisection. Beyond the grid tanh(u) is constant wherever q has mass.
    """
    signal, sigma = signal_and_noise(t)
    m_t = signal * torch.as_tensor(m, dtype=y.dtype).reshape(-1, 1)
    step = min(0.5 * sigma, 0.4 / float(m_t.max()))
    x = line(signal * float(y.abs().max()) + 8.0 * sigma, step)
    q = torch.zeros(len(y), len(x), dtype=y.dtype)
    for sample in (signal * y).unbind(1):
        q += torch.exp(-0.5 * ((x - sample[:, None]) / sigma).square())
    q *= step / (y.shape[1] * sigma * math.sqrt(2.0 * math.pi))

    def loss(h: Tensor) -> Tensor:
        tanh, _ = tanh_and_slope(m_t * x + h)
        return (q * (-m_t * tanh * (2.0 * x + m_t * tanh))).sum(-1)

    def is_falling(h: Tensor) -> Tensor:
        tanh, slope = tanh_and_slope(m_t * x + h)
        return (q * slope * (x + m_t * tanh)).sum(-1, keepdim=True) > 0

    grid = line(float(m_t.max()) * float(x.abs().max()) + 5.0, H_STEP)
    best = grid[torch.stack([loss(h) for h in grid]).argmin(0)][:, None]
    return weight(bisect(is_falling, best - H_STEP, best + H_STEP)).squeeze(-1)


def fixed_t_gradient(
    y: Tensor, m: float, t: float, generator: np.random.Generator, is_fresh: bool = True
) -> Gradient:
    """Return the gradient of the loss at t on data y (`two_components.grad_h`).

    `is_fresh` draws new noise for each step, otherwise all steps share one draw.
    """
    once = None if is_fresh else normals(generator, *y.shape)
    return lambda h: grad_h(y, normals(generator, *y.shape) if once is None else once, h, m, t)


def draw_times(
    shape: tuple[int, ...], m: float, generator: np.random.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Return e^-t and sigma at random times, and the weights dv of an integral over t.

    e^-t = sin(v) and sigma = cos(v), so that dt = cot(v) dv cancels 1 / sigma and the integrand is
    finite at both ends. v = pi/2 sinh(k s) / sinh(k), with s uniform on the midpoints of 256 equal
    parts of [0, 1). For distant means this concentrates the times at v of about 1 / m, where the
    gradient carries its information.
    """
    k = math.asinh(0.5 * math.pi * m)
    scaled = k * (torch.arange(NUM_TIMES, dtype=torch.float64) + 0.5) / NUM_TIMES
    end = 0.5 * math.pi / math.sinh(k)
    v = end * torch.sinh(scaled)
    chosen = torch.from_numpy(generator.integers(NUM_TIMES, size=shape))
    return torch.sin(v)[chosen], torch.cos(v)[chosen], (end * k * torch.cosh(scaled))[chosen]


def all_t_gradient(y: Tensor, m: float, generator: np.random.Generator) -> Gradient:
    """Return the gradient of the integral of L_t over t in (0, inf), at one t per sample and step.

    With the times of `draw_times`, dL_t/dh dt is 2 m sech^2(u) (sigma (m_t tanh(u) - y_t) + z) dv.
    """

    def gradient(h: Tensor) -> tuple[Tensor, Tensor]:
        signal, sigma, dv = draw_times(tuple(y.shape), m, generator)
        z = normals(generator, *y.shape)
        y_t = signal * y + sigma * z
        tanh, slope = tanh_and_slope(signal * m * y_t + h)
        pull = dv * slope * (sigma * (signal * m * tanh - y_t) + z)
        gauss_newton = 2.0 * m**2 * (dv * signal * sigma * slope.square()).mean(-1, keepdim=True)
        rest = 4.0 * m * (pull * tanh).mean(-1, keepdim=True)
        return 2.0 * m * pull.mean(-1, keepdim=True), gauss_newton + rest.abs()

    return gradient


def iterates(gradient: Gradient, steepest: float, num: int) -> Iterator[Tensor]:
    """Yield w (num, 1) after each step h -= 1 / L dL/dh from w = 1/2, without end.

    `steepest` is L: the expected gradient is at most L times the distance to the minimum, so that
    steps of 1 / L do not pass it. At one t the curvature may exceed L away from the minimum
    (`expected_loss.at_one_t`). No step is longer than the inverse of the curvature at its start.
    """
    h = torch.zeros(num, 1, dtype=torch.float64)
    while True:
        in_h, curvature = gradient(h)
        h = h - (1.0 / curvature).clamp(max=1.0 / steepest) * in_h
        yield weight(h)


def tail_mean(path: Iterator[Tensor], steps: int, averaged: int) -> Tensor:
    """Return the mean, (R,), over the last `averaged` of `steps` iterates."""
    return torch.cat(list(islice(path, steps - averaged, steps)), 1).mean(1)


def descend_fixed_t(
    y: Tensor, m: float, t: float, steps: int, averaged: int, generator: np.random.Generator
) -> Tensor:
    """Return w_hat (R,) of descent on the loss at t with fresh noise; L = 2 m_t^2."""
    m_t = signal_and_noise(t)[0] * m
    path = iterates(fixed_t_gradient(y, m, t, generator), 2.0 * m_t**2, len(y))
    return tail_mean(path, steps, averaged)


def descend_all_t(
    y: Tensor, m: float, steps: int, averaged: int, generator: np.random.Generator
) -> Tensor:
    """Return w_hat (R,) of descent on the loss integrated over t, which is -log q; L = 1."""
    return tail_mean(iterates(all_t_gradient(y, m, generator), 1.0, len(y)), steps, averaged)
