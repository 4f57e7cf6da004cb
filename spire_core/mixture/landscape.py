"""The landscape of the expected loss of two components in h, at one t and over all t.

At one t the loss is, up to a constant, m_t^2 E (tanh(u) - tanh(u*))^2 with u = m_t y_t + h and
u* = m_t y_t + h* (Vincent 2011, with the true score as the target). At one t, results are in units
of 2 m_t^2. Letters: H places h.
"""

import math

import torch
from torch import Tensor

from spire_core.mixture.exact_errors import information, line_nodes
from spire_core.mixture.two_components import log_odds

CURVATURES = -0.9617, 1.2325  # bounds of the curvature at one t, whatever w, m_t and h


def at_one_t(w: float, m_t: float, h: Tensor) -> tuple[Tensor, Tensor]:
    """Return gradient and curvature in h (H,) of the expected loss for data of weight w.

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


def least_rate_bound(w: float, m_t: float) -> float:
    """Return sqrt(pi w (1 - w) / 2) exp(-m_t^2 / 2) / m_t, above E sech^4(u) at the true w.

    The mixture's density is 2 sqrt(w (1 - w)) exp(-m_t^2 / 2) N(x; 0, 1) cosh(m_t x + h), so that
    E sech^4 is an integral of N sech^3, and that of sech^3 is pi / 2.
    """
    return math.sqrt(0.5 * math.pi * w * (1.0 - w)) * math.exp(-0.5 * m_t**2) / m_t


def over_all_t(w: float, m: float, h: Tensor) -> Tensor:
    """Return the gradient in h (H,) of the loss over all t, tanh(h) - E tanh(m y + h)."""
    y, share = line_nodes(w, m, m)
    return torch.tanh(h) - (share * torch.tanh(m * y + h[:, None])).sum(-1)


def resolved_share(w: float, m: float) -> float:
    """Return w (1 - w) times Fisher's information on w, in (0, 1).

    It is the part of the variance of a sample's component that the sample tells. Less noise tells
    more, so it increases with m. The gradient over all t is 2 (w_h - w) times this share at w_h.
    """
    return w * (1.0 - w) * information(w, m)


def _tanhs(w: float, m_t: float, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    y, share = line_nodes(w, m_t, m_t)
    target = torch.tanh(m_t * y + log_odds(torch.tensor(w, dtype=y.dtype)))
    return torch.tanh(m_t * y + h[:, None]), target, share
