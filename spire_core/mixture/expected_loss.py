"""Two components by quadrature: the expected loss in h, and the theoretical errors of estimators.

At one t the loss is, up to a constant, m_t^2 E (tanh(u) - tanh(u*))^2 with u = m_t y_t + h and
u* = m_t y_t + h* at the true weight (Vincent 2011, with the true score as the target). Over all t
it is -log q (Song et al. 2021). Letters: H places h, N samples.
"""

import math

import torch
from torch import Tensor

from spire_core.mixture.numerics import mixture_nodes, normal_nodes, times
from spire_core.mixture.two_components import log_odds, odds_slope, signal_and_noise, weight

CURVATURES = -0.9617, 1.2325  # bounds of the curvature at one t, whatever w, m_t and h


def at_one_t(w: float, m_t: float, h: Tensor) -> tuple[Tensor, Tensor]:
    """Return gradient and curvature in h (H,) for data of weight w, in units of 2 m_t^2.

    With a = tanh(u) and b = tanh(u*), the gradient is E (1 - a^2) (a - b) and the curvature is
    E (1 - a^2) (1 - a^2 - 2 a (a - b)). The integrands give their bounds: (1 - a^2) (a - b) is at
    most u - u*, and the curvature's extremes over a, b in [-1, 1] are `CURVATURES`.
    """
    a, b, share = _tanhs(w, m_t, h)
    slope = 1.0 - a.square()
    gradient = (share * slope * (a - b)).sum(-1)
    return gradient, (share * slope * (slope - 2.0 * a * (a - b))).sum(-1)


def least_secant(w: float, m_t: float, h: Tensor) -> Tensor:
    """Return E min(sech^4(u), sech^4(u*)), (H,): a lower bound on gradient / (h - h*)."""
    a, b, share = _tanhs(w, m_t, h)
    return (share * (1.0 - torch.maximum(a.square(), b.square())).square()).sum(-1)


def rate(w: float, m_t: float) -> float:
    """Return E sech^4(u*): by 1 minus it, each step of 1 / (2 m_t^2) multiplies a small error.

    It is the curvature at the true weight in units of 2 m_t^2, and at most 1.
    """
    return float(at_one_t(w, m_t, log_odds(torch.tensor([w], dtype=torch.float64)))[1])


def least_rate_bound(w: float, m_t: float) -> float:
    """Return sqrt(pi w (1 - w) / 2) exp(-m_t^2 / 2) / m_t, above `rate`.

    The mixture's density is 2 sqrt(w (1 - w)) exp(-m_t^2 / 2) N(x; 0, 1) cosh(m_t x + h), so that
    E sech^4 is an integral of N sech^3, and that of sech^3 is pi / 2.
    """
    return math.sqrt(0.5 * math.pi * w * (1.0 - w)) * math.exp(-0.5 * m_t**2) / m_t


def expected_path(
    w: float, m_t: float, steps: int, lr: float = 1.0, start: float = 0.5
) -> list[float]:
    """Return w_0 = start, w_1, ..., of descent in h at one t with steps lr / (2 m_t^2).

    The gradient has the sign of h - h*, so the true weight is the only minimum. With lr of 1 at
    most, steps do not pass it, because the gradient is at most 2 m_t^2 |h - h*|.
    """
    h, path = log_odds(torch.tensor([start], dtype=torch.float64)), [start]
    for _ in range(steps):
        h = h - lr * at_one_t(w, m_t, h)[0]
        path.append(float(weight(h)))
    return path


def over_all_t(w: float, m: float, h: Tensor) -> Tensor:
    """Return the gradient in h (H,) of the loss over all t, tanh(h) - E tanh(m y + h)."""
    y, share = mixture_nodes(w, m, m)
    return torch.tanh(h) - (share * torch.tanh(m * y + h[:, None])).sum(-1)


def information(w: float, m: float) -> float:
    """Return Fisher's information on w in one sample: the integral of (p - p')^2 / q_w."""
    y, share = mixture_nodes(w, m, m)
    return float((share * likelihood_gradient(y, torch.tensor(w, dtype=y.dtype), m).square()).sum())


def resolved_share(w: float, m: float) -> float:
    """Return w (1 - w) times Fisher's information on w, in (0, 1).

    It is the part of the variance of a sample's component that the sample tells. Less noise tells
    more, so it increases with m. The gradient over all t is 2 (w_h - w) times this share at w_h.
    """
    return w * (1.0 - w) * information(w, m)


def likelihood_gradient(y: Tensor, w: Tensor, m: float) -> Tensor:
    """Return d/dw (-log q_w) of each sample y (N,): (1 - p) / (1 - w) - p / w.

    p is the posterior probability of the first component; w (N,), inside (0, 1).
    """
    p = torch.sigmoid(2.0 * (m * y + log_odds(w)))
    return (1.0 - p) / (1.0 - w) - p / w


def denoising_gradient(y: Tensor, w: Tensor, m: float) -> Tensor:
    """Return the integral over t in (0, inf) of E_z dL_t/dw of each sample y (N,).

    It equals `likelihood_gradient`: the bound of Song et al. 2021 ("Maximum likelihood training of
    score-based diffusion models") on -log q at one x0 is an equality for exact scores. With g^2 = 2
    its weighting g^2 / 2 is 1, and at t = inf q is N(0, I) for every w.

    E_z dL_t/dh = -2 m_t E_z sech^2(u) (y_t + m_t tanh(u)). Stein's lemma turns z / sigma into the
    derivative of sech^2, which removes the infinite variance at t = 0. In the v of
    `numerics.times` the integrand is smooth.
    """
    z, of_z = normal_nodes(0.02)
    total, h = torch.zeros_like(y), log_odds(w)[:, None]
    for signal, sigma, dv in times(64):
        y_t = signal * y[:, None] + sigma * z
        tanh = torch.tanh(signal * m * y_t + h)
        inner = (1.0 - tanh.square()) * (y_t + signal * m * tanh)
        total -= 2.0 * m * sigma * dv * (inner @ of_z)
    return total * odds_slope(w)


def _tanhs(w: float, m_t: float, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    y, share = mixture_nodes(w, m_t, m_t)
    target = torch.tanh(m_t * y + log_odds(torch.tensor(w, dtype=y.dtype)))
    return torch.tanh(m_t * y + h[:, None]), target, share


def published_bound(w: float, m_t: float, d: int, n: int) -> float:
    """Return w (1 - w) / n + d / (4 m_t^2 n) (arXiv 2506.12303, theorem 4.2)."""
    return (w * (1.0 - w) + d / (4.0 * m_t**2)) / n


def moment_error(w: float, m_t: float, n: int) -> float:
    """Return w (1 - w) / n + 1 / (4 m_t^2 n), exact for the moment of (noised) projected data."""
    return published_bound(w, m_t, 1, n)


def cramer_rao(w: float, m: float, n: int) -> float:
    """Return 1 / (n information): no unbiased estimator has a smaller error."""
    return 1.0 / (n * information(w, m))


def fixed_t_error(w: float, m: float, t: float, n: int, draws: float) -> float:
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
