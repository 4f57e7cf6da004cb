"""A new client's weight on a backbone that is not exact: means perturbed, or learned by EM.

The new client's data have the density w N(mu, I) + (1 - w) N(-mu, I), but its estimator assumes
the means `plus` and `minus`. Only the projection on the line through these two matters, so that
each sample stays one number. Shapes: R replicates, C pre-training clients, n samples, d dimensions.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from spire_core.mixture.numerics import bisect, normal_nodes
from spire_core.mixture.two_components import log_odds, normals

PINNED = 1e-6  # from 0 or 1: a limit nearer than this is there


class Line(NamedTuple):
    """Assumed and true means in the coordinate of a backbone's line; each (R, 1).

    The backbone assumes means at `m` and -`m`; the true means of the data are at `first` and
    `second`.
    """

    m: Tensor
    first: Tensor
    second: Tensor


def line_of(plus: Tensor, minus: Tensor, mu: Tensor) -> Line:
    """Return the line through assumed means plus and minus (R, d), for true means +-mu (d,)."""
    across, middle = 0.5 * (plus - minus), 0.5 * (plus + minus)
    m = across.norm(dim=-1, keepdim=True)
    axis = across / m
    first = ((mu - middle) * axis).sum(-1, keepdim=True)
    return Line(m, first, ((-mu - middle) * axis).sum(-1, keepdim=True))


def draw_on_line(w: float, on: Line, n: int, generator: np.random.Generator) -> Tensor:
    """Return a new client's data (R, n) in the coordinate of a backbone's line."""
    shape = (len(on.m), n)
    is_first = torch.from_numpy(generator.random(shape) < w)
    return normals(generator, *shape) + torch.where(is_first, on.first, on.second)


def believed_error(w: float, on: Line, n: int) -> Tensor:
    """Return the asymptotic error (R,) of maximum likelihood with the backbone's means.

    (w* - w)^2 + `believed_variance` (White 1982), where w* is the limit.
    """
    limit = believed_limit(w, on)
    return (limit - w) ** 2 + believed_variance(w, on, limit, n)


def believed_variance(w: float, on: Line, limit: Tensor, n: int) -> Tensor:
    """Return the asymptotic variance (R,) at the limit w* (R,), 0 where that is pinned at an end.

    1 / (n E g^2), where g = p / w* - (1 - p) / (1 - w*) has mean 0 at a limit inside (0, 1) under
    the true density: variance and curvature of a mixture in w are both E g^2. At an end the mean is
    not 0, and almost all estimates are at that end too.
    """
    variance = 1.0 / (n * _mean_power(w, on, limit[:, None], 2).squeeze(-1))
    return variance.masked_fill(torch.minimum(limit, 1.0 - limit) < PINNED, 0.0)


def believed_limit(w: float, on: Line) -> Tensor:
    """Return the limit w* (R,) of maximum likelihood with the backbone's means."""
    low, high = torch.full_like(on.m, 1e-9), torch.full_like(on.m, 1.0 - 1e-9)
    # log q is concave in w
    return bisect(lambda limit: _mean_power(w, on, limit, 1) > 0, low, high).squeeze(-1)


def _mean_power(w: float, on: Line, limit: Tensor, power: int) -> Tensor:
    """Return E g^power (R, 1) under the true density, for g at w* = limit (R, 1)."""
    z, share = normal_nodes(0.05)
    h, total = log_odds(limit), torch.zeros_like(limit)
    for part, place in ((w, on.first), (1.0 - w, on.second)):
        p = torch.sigmoid(2.0 * (on.m * (z + place) + h))
        total += part * ((p / limit - (1.0 - p) / (1.0 - limit)) ** power @ share)[:, None]
    return total


def perturbed(
    mu: Tensor, kind: str, size: float, num: int, generator: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Return `num` pairs of assumed means, (R, d) each, with `size` = ||error of each mean||.

    `isotropic`: each mean moves in its own random direction. `scale`: both move away from their
    midpoint. `shift`: both move by the same vector along mu, the worst of the three for maximum
    likelihood.
    """
    if kind == "isotropic":
        moves = [normals(generator, num, len(mu)) for _ in range(2)]
        plus, minus = (size * move / move.norm(dim=-1, keepdim=True) for move in moves)
        return mu + plus, minus - mu
    along = size * mu / mu.norm()
    plus, minus = {"scale": (along, -along), "shift": (along, along)}[kind]
    return (mu + plus).expand(num, -1), (minus - mu).expand(num, -1)


def learn_means(x: Tensor, mu: Tensor, steps: int = 50) -> tuple[Tensor, Tensor]:
    """Return the two means (R, d) that EM learns from clients' data x (R, C, n, d).

    The means are shared and each client has its own weight, like a backbone and its embeddings. EM
    starts on either side of the pooled mean along the first principal direction; mu only decides
    which of the two means comes first.
    """
    pooled = x.flatten(1, 2)
    middle = pooled.mean(1)
    centred = pooled - middle[:, None]
    values, directions = torch.linalg.eigh(centred.transpose(1, 2) @ centred / pooled.shape[1])
    spread = (values[:, -1:] - values[:, :-1].mean(-1, keepdim=True)).clamp(min=0.01).sqrt()
    axis = directions[:, :, -1]
    axis = axis * torch.sign(axis @ mu)[:, None]
    plus, minus = middle + spread * axis, middle - spread * axis
    w = torch.full((*x.shape[:2], 1), 0.5, dtype=x.dtype)
    for _ in range(steps):
        odds = x @ (plus - minus)[:, None, :, None]
        level = 0.5 * (minus.square().sum(-1) - plus.square().sum(-1))
        p = torch.sigmoid(odds[..., 0] + level[:, None, None] + torch.logit(w))
        w = p.mean(-1, keepdim=True).clamp(1e-9, 1.0 - 1e-9)
        of_plus = p.flatten(1)[:, None]
        first = (of_plus @ pooled).squeeze(1)
        total = of_plus.sum(-1)
        plus = first / total
        minus = (pooled.sum(1) - first) / (pooled.shape[1] - total)
    return plus, minus
