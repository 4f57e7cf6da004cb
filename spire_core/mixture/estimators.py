"""Estimators of the mixing weight without descent: from y, z (R, n) of `two_components` to (R,).

The moment and the single step are unbiased or nearly so, and may therefore leave [0, 1].
"""

import torch
from torch import Tensor

from spire_core.mixture.two_components import check_separation, grad_h, log_odds, signal_and_noise

MAX_STEPS = 40
EDGE = 1e-12


def moment(y: Tensor, m: float) -> Tensor:
    """Return 1/2 (1 + mean(y) / m), unbiased because E y = (2w - 1) m.

    For noised data pass y_t and m_t in place of y and m. For one coordinate instead of the
    projection pass that coordinate and its component of mu.
    """
    return 0.5 * (1.0 + y.mean(-1) / check_separation(m))


def one_step(y: Tensor, z: Tensor, m: float, t: float) -> Tensor:
    """Return w after one gradient step on the loss at t from w = 1/2, of length 1 / (8 m_t^2).

    This length is the inverse of the curvature in w at 1/2 for m_t -> 0. It makes the step unbiased
    there, because dL/dw is then 8 m_t^2 (1/2 - w) on average.
    """
    m_t = signal_and_noise(t)[0] * check_separation(m)
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
