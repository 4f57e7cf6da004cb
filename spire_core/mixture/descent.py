"""Gradient descent on the denoising objective in one number: the mixing weight, or its log-odds.

There are two objectives: the loss at one fixed t, and its integral over all t. Noise is drawn anew
for every step, or once for all steps. Shapes as in `two_components`: y, z (R, n); w, h, gradient,
curvature (R, 1).
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from spire_core.errors import ConfigError
from spire_core.mixture.two_components import (
    check_separation,
    check_weight,
    grad_h,
    log_odds,
    normals,
    odds_slope,
    signal_and_noise,
    tanh_and_slope,
    weight,
)

NUM_TIMES = 256
EDGE = 1e-12  # descent in w stays this far inside [0, 1], where log-odds are finite
Gradient = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Maps h to the gradient in h and a bound on its curvature, with the next draw of the noise."""


@dataclass(frozen=True)
class DescentConfig:
    """Settings of the descent.

    `parameter`: `odds` (h) or `weight` (w). `lr` is a multiple of 1 / L. The expected gradient in h
    is at most L times the distance to the minimum, so that steps of 1 / L do not pass it. At one t
    the curvature may exceed L away from the minimum (`landscape.at_one_t`). `is_damped` limits each
    step to the inverse of the curvature at its start. That matters in w, whose curvature is
    unbounded towards 0 and 1.
    `is_fresh` draws new noise for each step. The result is the mean of the last `averaged`
    iterates.
    """

    parameter: str = "odds"
    lr: float = 1.0
    steps: int = 200
    averaged: int = 100
    start: float = 0.5
    is_fresh: bool = True
    is_damped: bool = True

    def __post_init__(self) -> None:
        if self.parameter not in ("odds", "weight"):
            raise ConfigError(
                f"expected descent in odds or weight, got {self.parameter!r}: choose one"
            )
        if not 1 <= self.averaged <= self.steps:
            raise ConfigError(
                f"expected averaged in 1..{self.steps}, got {self.averaged}: it counts last steps"
            )
        if not 0.0 < self.lr < math.inf:
            raise ConfigError(f"expected lr above 0, got {self.lr}: 1 is the step 1 / L")
        if check_weight(self.start) in (0.0, 1.0):
            raise ConfigError(f"expected a start inside (0, 1), got {self.start}: such as 0.5")


def fixed_t_gradient(
    y: Tensor, m: float, t: float, is_fresh: bool, generator: np.random.Generator
) -> Gradient:
    """Return the gradient of the loss at t on data y (`two_components.grad_h`)."""
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
    k = math.asinh(0.5 * math.pi * check_separation(m))
    scaled = k * (torch.arange(NUM_TIMES, dtype=torch.float64) + 0.5) / NUM_TIMES
    end = 0.5 * math.pi / math.sinh(k)
    v = end * torch.sinh(scaled)
    chosen = torch.from_numpy(generator.integers(NUM_TIMES, size=shape))
    return torch.sin(v)[chosen], torch.cos(v)[chosen], (end * k * torch.cosh(scaled))[chosen]


def all_t_gradient(y: Tensor, m: float, is_fresh: bool, generator: np.random.Generator) -> Gradient:
    """Return the gradient of the integral of L_t over t in (0, inf), at one t per sample and step.

    With the times of `draw_times`, dL_t/dh dt is 2 m sech^2(u) (sigma (m_t tanh(u) - y_t) + z) dv.
    """

    def draw() -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return *draw_times(tuple(y.shape), m, generator), normals(generator, *y.shape)

    def gradient(h: Tensor) -> tuple[Tensor, Tensor]:
        signal, sigma, dv, z = draw() if once is None else once
        y_t = signal * y + sigma * z
        tanh, slope = tanh_and_slope(signal * m * y_t + h)
        pull = dv * slope * (sigma * (signal * m * tanh - y_t) + z)
        gauss_newton = 2.0 * m**2 * (dv * signal * sigma * slope.square()).mean(-1, keepdim=True)
        rest = 4.0 * m * (pull * tanh).mean(-1, keepdim=True)
        return 2.0 * m * pull.mean(-1, keepdim=True), gauss_newton + rest.abs()

    once = None if is_fresh else draw()
    return gradient


def iterates(
    gradient: Gradient, steepest: float, num: int, config: DescentConfig
) -> Iterator[Tensor]:
    """Yield w (num, 1) after each step, without end.

    `steepest` is L of `DescentConfig`. In h: h -= lr / L dL/dh. In w, where dh/dw is 2 at w = 1/2
    and grows without bound towards 0 and 1: w -= lr / (4 L) dL/dw, kept inside [0, 1].
    """
    w = torch.full((num, 1), config.start, dtype=torch.float64)
    h = log_odds(w)
    is_odds = config.parameter == "odds"
    longest = config.lr / (steepest if is_odds else 4.0 * steepest)
    while True:
        slope = torch.ones_like(h) if is_odds else odds_slope(w)
        in_h, curvature = gradient(h)
        step = torch.full_like(h, longest)
        if config.is_damped:
            bend = torch.zeros_like(h) if is_odds else (2.0 * (2.0 * w - 1.0) * slope**2 * in_h)
            step = torch.minimum(step, 1.0 / (curvature * slope**2 + bend.abs()))
        if is_odds:
            h = h - step * in_h
            w = weight(h)
        else:
            w = (w - step * slope * in_h).clamp(EDGE, 1.0 - EDGE)
            h = log_odds(w)
        yield w


def tail_mean(path: Iterator[Tensor], config: DescentConfig) -> Tensor:
    """Return the mean, (R,), over the last `averaged` of `steps` iterates."""
    skipped = config.steps - config.averaged
    return torch.cat(list(islice(path, skipped, config.steps)), 1).mean(1)


def descend_fixed_t(
    y: Tensor, m: float, t: float, config: DescentConfig, generator: np.random.Generator
) -> Tensor:
    """Return w_hat (R,) of descent on the loss at t; L = 2 m_t^2."""
    gradient = fixed_t_gradient(y, m, t, config.is_fresh, generator)
    m_t = signal_and_noise(t)[0] * check_separation(m)
    return tail_mean(iterates(gradient, 2.0 * m_t**2, len(y), config), config)


def descend_all_t(
    y: Tensor, m: float, config: DescentConfig, generator: np.random.Generator
) -> Tensor:
    """Return w_hat (R,) of descent on the loss integrated over t, which is -log q; L = 1."""
    gradient = all_t_gradient(y, m, config.is_fresh, generator)
    return tail_mean(iterates(gradient, 1.0, len(y), config), config)
