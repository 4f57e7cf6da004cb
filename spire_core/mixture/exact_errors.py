"""Theoretical errors of the estimators: the published bound, exact and asymptotic errors.

All are E (w_hat - w)^2 for n samples. Integrals are trapezoid sums, whose error for these smooth
integrands falls exponentially as the step shrinks.
"""

import math

import torch
from torch import Tensor

from spire_core.errors import ConfigError
from spire_core.mixture.two_components import (
    check_separation,
    check_weight,
    log_odds,
    signal_and_noise,
    weight,
)

REACH = 9.0  # standard deviations; the mass beyond is less than 1e-18


def published_bound(w: float, m_t: float, d: int, n: int) -> float:
    """Return w (1 - w) / n + d / (4 m_t^2 n) (arXiv 2506.12303, theorem 4.2)."""
    return (check_weight(w) * (1.0 - w) + d / (4.0 * m_t**2)) / n


def moment_error(w: float, m_t: float, n: int) -> float:
    """Return w (1 - w) / n + 1 / (4 m_t^2 n), exact for the moment of (noised) projected data."""
    return published_bound(w, m_t, 1, n)


def one_step_error(w: float, m: float, t: float, n: int) -> float:
    """Return the exact error of `estimators.one_step`: squared bias + variance / n."""
    m_t = signal_and_noise(t)[0] * m
    y, z, share = _plane(w, m, m_t)
    step = -_gradient(y, z, torch.tensor(0.0, dtype=y.dtype), m, t) / (4.0 * m_t**2)
    mean = (share * step).sum()
    variance = (share * (step - mean).square()).sum()
    return float((0.5 + mean - w) ** 2 + variance / n)


def information(w: float, m: float) -> float:
    """Return Fisher's information on w in one sample: the integral of (p - p')^2 / q_w."""
    _check_inside(w)
    y, share = line_nodes(w, m, m)
    p = torch.sigmoid(2.0 * (m * y + log_odds(torch.tensor(w, dtype=y.dtype))))
    return float((share * (p / w - (1.0 - p) / (1.0 - w)).square()).sum())


def cramer_rao(w: float, m: float, n: int) -> float:
    """Return 1 / (n information): no unbiased estimator has a smaller error."""
    return 1.0 / (n * information(w, m))


def fixed_t_error(w: float, m: float, t: float, n: int, draws: float = math.inf) -> float:
    """Return the asymptotic variance of the minimiser of the loss at t, the sandwich B / (A^2 n).

    A = 2 m_t^2 E sech^4(u) is the curvature in h. B is the variance of a sample's gradient in h,
    averaged over `draws` draws of noise: 1 for fixed noise, the number of averaged iterates for
    fresh noise. The error in w follows from dw/dh = 2 w (1 - w).
    """
    _check_inside(w)
    m_t = signal_and_noise(t)[0] * m
    y, z, share = _plane(w, m, m_t)
    h = log_odds(torch.tensor(w, dtype=y.dtype))
    gradient = _gradient(y, z, h, m, t)
    of_y = share.sum(1)
    mean = (share * gradient).sum(1) / of_y
    between = (of_y * mean.square()).sum()
    within = (share * (gradient - mean[:, None]).square()).sum()
    a = curvature(w, m_t)
    return float((between + within / draws) * (2.0 * w * (1.0 - w) / a) ** 2 / n)


def curvature(w: float, m_t: float) -> float:
    """Return A = d^2 L / dh^2 = 2 m_t^2 E sech^4(u) of the expected loss at the true w."""
    _check_inside(w)
    y, share = line_nodes(w, m_t, m_t)
    p = torch.sigmoid(2.0 * (m_t * y + log_odds(torch.tensor(w, dtype=y.dtype))))
    return float(2.0 * m_t**2 * (share * (4.0 * p * (1.0 - p)).square()).sum())


def linear_factor(w: float, m_t: float, lr: float = 1.0) -> float:
    """Return |1 - lr A / L|, L = 2 m_t^2: the factor of the error per step near the minimum.

    L is the curvature A at w = 1/2 for m_t -> 0. A is at most L, whatever w and m_t.
    """
    return abs(1.0 - lr * curvature(w, m_t) / (2.0 * m_t**2))


def expected_path(
    w: float, m_t: float, steps: int, lr: float = 1.0, start: float = 0.5
) -> list[float]:
    """Return w_0 = start, w_1, ..., of descent in h on the expected loss, without sampling error.

    dL/dh = 2 m_t^2 E sech^2(u) (tanh(u) - tanh(u*)), with u* = m_t y_t + h* at the true weight. Its
    sign is that of h - h*, so the true weight is the only minimum. Steps are lr / (2 m_t^2). With
    lr of 1 at most, they do not pass it, because |dL/dh| is at most 2 m_t^2 |h - h*|.
    """
    _check_inside(w)
    y, share = line_nodes(w, m_t, m_t)
    target = torch.tanh(m_t * y + log_odds(torch.tensor(w, dtype=y.dtype)))
    h, path = log_odds(torch.tensor(start, dtype=y.dtype)), [start]
    for _ in range(steps):
        tanh = torch.tanh(m_t * y + h)
        h = h - lr * (share * (1.0 - tanh.square()) * (tanh - target)).sum()
        path.append(float(weight(h)))
    return path


def _check_inside(w: float) -> None:
    if check_weight(w) in (0.0, 1.0):
        raise ConfigError(
            f"expected w strictly between 0 and 1, got {w}: at the ends there is no such expansion"
        )


def line_nodes(w: float, m: float, sharpness: float) -> tuple[Tensor, Tensor]:
    """Return nodes y and the mixture's probability at each, fine enough for tanh(sharpness y)."""
    step = min(0.05, 0.3 / check_separation(sharpness))
    y = torch.arange(-m - REACH, m + REACH + step, step, dtype=torch.float64)
    density = w * _normal(y - m) + (1.0 - w) * _normal(y + m)
    return y, density * step


def _plane(w: float, m: float, m_t: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return nodes y (Y, 1) and z (1, Z) and the probability of each pair, (Y, Z)."""
    y, of_y = line_nodes(w, check_separation(m), m_t)
    kept = of_y > 1e-20
    step = min(0.05, 0.3 / m_t)
    z = torch.arange(-REACH, REACH + step, step, dtype=torch.float64)
    return y[kept, None], z[None], of_y[kept, None] * (_normal(z) * step)


def _normal(x: Tensor) -> Tensor:
    return torch.exp(-0.5 * x.square()) / math.sqrt(2.0 * math.pi)


def _gradient(y: Tensor, z: Tensor, h: Tensor, m: float, t: float) -> Tensor:
    """Return each sample's term of `two_components.grad_h`."""
    signal, sigma = signal_and_noise(t)
    y_t = signal * y + sigma * z
    tanh = torch.tanh(signal * m * y_t + h)
    return 2.0 * signal * m * (1.0 - tanh.square()) * (signal * m * tanh - y_t + z / sigma)
