"""Nodes of integrals over a line and over all noise levels, and bisection."""

import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

REACH = 9.0  # standard deviations; the mass beyond is less than 1e-18


def line(far: float, step: float) -> Tensor:
    """Return nodes of the trapezoid rule from -far to far.

    For smooth integrands its error falls exponentially as the step shrinks: 1e-17 for a bell at
    half of its width, and 1e-10 for tanh(m x) at 0.4 / m.
    """
    return torch.arange(-far, far + step, step, dtype=torch.float64)


def normal_nodes(step: float) -> tuple[Tensor, Tensor]:
    """Return nodes z and their shares of N(0, 1)."""
    z = torch.arange(-REACH, REACH, step, dtype=torch.float64)
    return z, torch.exp(-0.5 * z.square()) * (step / math.sqrt(2.0 * math.pi))


@lru_cache(64)
def mixture_nodes(w: float, m: float, sharpness: float) -> tuple[Tensor, Tensor]:
    """Return nodes y and their shares of w N(m, 1) + (1 - w) N(-m, 1), for tanh(sharpness y)."""
    step = min(0.05, 0.3 / sharpness)
    y = line(m + REACH, step)
    first, second = (torch.exp(-0.5 * (y - mean).square()) for mean in (m, -m))
    return y, (w * first + (1.0 - w) * second) * (step / math.sqrt(2.0 * math.pi))


def times(num: int) -> list[tuple[float, float, float]]:
    """Return (e^-t, sigma, dv) of `num` Gauss-Legendre nodes over t in (0, inf).

    e^-t = sin(v) and sigma = cos(v), so that dt = cot(v) dv.
    """
    points, parts = np.polynomial.legendre.leggauss(num)
    angles = 0.25 * math.pi * (points + 1.0)
    return [
        (math.sin(v), math.cos(v), 0.25 * math.pi * part)
        for v, part in zip(angles, parts, strict=True)
    ]


def bisect(is_below: Callable[[Tensor], Tensor], low: Tensor, high: Tensor) -> Tensor:
    """Return the places between low and high up to which `is_below` holds, after 40 halvings."""
    for _ in range(40):
        middle = 0.5 * (low + high)
        below = is_below(middle)
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return 0.5 * (low + high)
