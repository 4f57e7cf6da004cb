"""Two Gaussians under diffusion: their score, the denoising loss, and its gradient in the weight.

X0 ~ w N(mu, I) + (1 - w) N(-mu, I) in R^d and Xt = e^-t X0 + sigma Z with sigma^2 = 1 - e^-2t, so
that each component keeps variance I. m = ||mu|| and m_t = e^-t m. The log-odds
h = 1/2 log(w / (1 - w)) represent the client: a bias inside tanh, as an embedding is in a network.

Data enter only through y = mu.x0 / m, and noise only through z = mu.Z / m. After this projection no
cost depends on d. Shapes: R replicates, n samples, d dimensions; y, z (R, n); w, h (R, 1). All
numbers are float64.
"""

import math

import numpy as np
import torch
from torch import Tensor


def log_odds(w: Tensor) -> Tensor:
    """Return h = 1/2 log(w / (1 - w)), infinite at w = 0 and 1."""
    return 0.5 * torch.logit(w)


def weight(h: Tensor) -> Tensor:
    """Return w = 1 / (1 + e^-2h), the inverse of `log_odds`."""
    return torch.sigmoid(2.0 * h)


def signal_and_noise(t: float) -> tuple[float, float]:
    """Return e^-t and sigma = sqrt(1 - e^-2t)."""
    return math.exp(-t), math.sqrt(-math.expm1(-2.0 * t))


def time_of(m_t: float, m: float) -> float:
    """Return the t at which a separation m has shrunk to m_t < m: t = log(m / m_t)."""
    return math.log(m / m_t)


def normals(generator: np.random.Generator, *shape: int) -> Tensor:
    """Return standard normal draws (numpy's: twice as fast as torch's in float64)."""
    return torch.from_numpy(generator.standard_normal(shape))


def draw_projected(w: float, m: float, shape: tuple[int, int], generator: np.random.Generator):
    """Return y = mu.x0 / m of samples, (R, n): N(m, 1) with probability w, else N(-m, 1)."""
    is_first = torch.from_numpy(generator.random(shape) < w)
    return normals(generator, *shape) + torch.where(is_first, m, -m)


def score(x: Tensor, h: Tensor, mu: Tensor, t: float) -> Tensor:
    """Return grad log q(x) of the mixture at time t, (..., d): tanh(mu_t.x + h) mu_t - x."""
    mu_t = math.exp(-t) * mu
    return torch.tanh((x * mu_t).sum(-1, keepdim=True) + h) * mu_t - x


def ddpm_loss(x0: Tensor, z: Tensor, h: Tensor, mu: Tensor, t: float) -> Tensor:
    """Return the mean over samples of || s(Xt, t) + Z / sigma ||^2 (Ho et al. 2020, eq. 14).

    x0, z (n, d). No factor 1/2 and no weighting, as in the paper. This is the definition against
    which tests check `grad_h`; no other function works in d dimensions.
    """
    signal, sigma = signal_and_noise(t)
    residual = score(signal * x0 + sigma * z, h, mu, t) + z / sigma
    return residual.square().sum(-1).mean()


def grad_h(y: Tensor, z: Tensor, h: Tensor, m: float, t: float) -> tuple[Tensor, Tensor]:
    """Return dL/dh of `ddpm_loss` and a bound on its curvature, both (R, 1).

    dL/dh = mean 2 m_t sech^2(u) r with r = m_t tanh(u) - y_t + z / sigma, y_t = e^-t y + sigma z
    and u = m_t y_t + h. The curvature is a Gauss-Newton term, mean 2 m_t^2 sech^4(u), plus
    S = -mean 4 m_t sech^2(u) tanh(u) r. The bound is the first term plus |S|.
    """
    signal, sigma = signal_and_noise(t)
    m_t = signal * m
    y_t = signal * y + sigma * z
    tanh, slope = tanh_and_slope(m_t * y_t + h)
    pull = slope * (m_t * tanh - y_t + z / sigma)
    gauss_newton = 2.0 * m_t**2 * slope.square().mean(-1, keepdim=True)
    rest = 4.0 * m_t * (pull * tanh).mean(-1, keepdim=True)
    return 2.0 * m_t * pull.mean(-1, keepdim=True), gauss_newton + rest.abs()


def tanh_and_slope(u: Tensor) -> tuple[Tensor, Tensor]:
    """Return tanh(u) and sech^2(u), by the sigmoid, which is four times as fast as tanh here."""
    p = torch.sigmoid(2.0 * u)
    return 2.0 * p - 1.0, 4.0 * p * (1.0 - p)


def odds_slope(w: Tensor) -> Tensor:
    """Return dh/dw = 1 / (2 w (1 - w)), by which a gradient in h becomes one in w."""
    return 0.5 / (w * (1.0 - w))
