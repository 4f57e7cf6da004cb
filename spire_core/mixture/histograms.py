"""K components of any shape, as histograms on a line: exact diffused scores, descent in the logits.

p_pi = sum_k pi_k f_k. The f_k are piecewise constant, so that their diffused densities are sums of
normal distribution functions. With the exact scores of the diffused f_k, the loss integrated over
all t in (0, inf) is KL(p_pi* || p_pi) up to a constant (Song et al. 2021), whatever the f_k.
Letters: K components, B bins, N nodes (of all times together); logits and weights pi (K,).
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from spire_core.mixture.numerics import line, times

LEAST = 1e-13  # densities below it are left out of integrals: their scores are rounding


@dataclass(frozen=True, eq=False)
class Histograms:
    """Densities on a line: edges (B + 1,) and each component's heights (K, B), of integral 1."""

    edges: Tensor
    heights: Tensor

    @classmethod
    def of(cls, shapes: Tensor, low: float = -3.0, high: float = 3.0) -> "Histograms":
        """Return histograms of equal bins in proportion to shapes (K, B), all above 0."""
        edges = torch.linspace(low, high, shapes.shape[1] + 1, dtype=torch.float64)
        return cls(edges, shapes / (shapes @ edges.diff())[:, None])

    @property
    def shares(self) -> Tensor:
        """Return the probability of each bin, (K, B)."""
        return self.heights * self.edges.diff()

    def information(self, pi: Tensor) -> Tensor:
        """Return Fisher's information on the weights in one sample, (K, K)."""
        return (self.shares / (pi @ self.shares)) @ self.shares.T

    def diffused(self, x: Tensor, signal: float, sigma: float) -> tuple[Tensor, Tensor]:
        """Return the densities (K, N) at x (N,) after diffusion, and their slopes."""
        jumps = torch.nn.functional.pad(self.heights, (1, 1)).diff(dim=1) / signal  # (K, B + 1)
        z = (x - signal * self.edges[:, None]) / sigma  # (B + 1, N)
        bell = torch.exp(-0.5 * z.square()) / (sigma * math.sqrt(2.0 * math.pi))
        return jumps @ torch.special.ndtr(z), jumps @ bell


@dataclass(frozen=True, eq=False)
class DiffusedNodes:
    """The diffused densities (K, N) and slopes at nodes of x and t, with the weights dx dt (N,)."""

    weights: Tensor
    densities: Tensor
    slopes: Tensor


def diffused_nodes(histograms: Histograms) -> DiffusedNodes:
    """Return nodes for integrals over x and over t in (0, inf).

    The scores of a histogram grow as 1 / sigma at its edges; dt = sigma / e^-t dv cancels that.
    """
    reach = float(histograms.edges.abs().max())
    found = []
    for signal, sigma, dv in times(32):
        step = 0.2 * sigma
        x = line(signal * reach + 8.0 * sigma, step)
        weights = torch.full_like(x, step * dv * sigma / signal)
        found.append((weights, *histograms.diffused(x, signal, sigma)))
    weights, densities, slopes = zip(*found, strict=True)
    return DiffusedNodes(torch.cat(weights), torch.cat(densities, 1), torch.cat(slopes, 1))


def denoising_gap(nodes: DiffusedNodes, pi: Tensor, target: Tensor) -> Tensor:
    """Return the loss over all t at weights pi minus that at the true weights `target`.

    It is the integral of E || s_pi - s_target ||^2 (Vincent 2011).
    """
    (s, _), (s_target, q) = _score(nodes, pi), _score(nodes, target)
    return (nodes.weights * q * (s - s_target).square()).sum()


def logit_gradient_all_t(nodes: DiffusedNodes, pi: Tensor, target: Tensor) -> Tensor:
    """Return the gradient (K,) of `denoising_gap` in the logits of pi.

    Component j is the integral of 2 E (s_pi - s_target) r_j (s_j - s_pi), with r_j the posterior
    probability of component j and s_j its score.
    """
    (s, p), (s_target, q) = _score(nodes, pi), _score(nodes, target)
    pull = 2.0 * nodes.weights * q * (s - s_target) / p
    return pi * (nodes.slopes @ pull - nodes.densities @ (pull * s))


def likelihood_gradient_in_logits(histograms: Histograms, pi: Tensor, target: Tensor) -> Tensor:
    """Return the gradient (K,) of KL(p_target || p_pi) in the logits of pi: pi_j - E r_j."""
    q, p = target @ histograms.shares, pi @ histograms.shares
    return pi * (1.0 - histograms.shares @ (q / p))


def divergence(histograms: Histograms, pi: Tensor, target: Tensor) -> Tensor:
    """Return KL(p_target || p_pi)."""
    q, p = target @ histograms.shares, pi @ histograms.shares
    return (q * (q / p).log()).sum()


def descend_all_t(
    nodes: DiffusedNodes, target: Tensor, logits: Tensor, steps: int, lr: float = 2.0
) -> Tensor:
    """Return the logits (steps + 1, K) of descent on the expected loss over all t.

    The Hessian in the logits, diag(pi) - pi pi' - E (diag(r) - r r'), is at most 1/2.
    """
    path = [logits]
    for _ in range(steps):
        pi = torch.softmax(path[-1], 0)
        path.append(path[-1] - lr * logit_gradient_all_t(nodes, pi, target))
    return torch.stack(path)


def rate_of_descent(histograms: Histograms, target: Tensor, lr: float = 2.0) -> float:
    """Return the factor of the error per step near the minimum, the worst over directions.

    The Hessian there is J I J with J = diag(pi) - pi pi' and Fisher's information I. Its null space
    is that of logits which move together, if the f_k are linearly independent.
    """
    jacobian = torch.diag(target) - torch.outer(target, target)
    values = torch.linalg.eigvalsh(jacobian @ histograms.information(target) @ jacobian)
    return float((1.0 - lr * values[1:]).abs().max())


def _score(nodes: DiffusedNodes, pi: Tensor) -> tuple[Tensor, Tensor]:
    """Return score and density (N,); in tails that no integral needs, 0 and `LEAST`."""
    p = pi @ nodes.densities
    return (pi @ nodes.slopes / p).masked_fill(p < LEAST, 0.0), p.clamp(min=LEAST)
