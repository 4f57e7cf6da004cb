"""A search for the embedding whose conditioning vectors explain the gradients that read them.

The gradient of a layer that reads the conditioning vector h = silu(a(t) + W e) is a sum of outer
products with h at the timesteps of the batches. Its row space therefore lies in the span of h over
all t, which is a function of e alone: the server knows a and W.
R: rows of gradients; T: timesteps; V: width of the conditioning vector; D_emb as usual.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

NUM_STEPS, RATE = 80, 0.05  # of Adam, from each start
UNCONDITIONAL = 0.3  # weight of the vectors without e: some examples are shown without it
RIDGE = 0.01  # of the largest singular value: directions below it count as outside of the span


def search_embedding(
    rows: np.ndarray, before: Tensor, weight: Tensor, starts: Sequence[np.ndarray]
) -> np.ndarray | None:
    """Return the embedding (D_emb,) that explains gradients (R, V) best; None without a start.

    `before` (T, V) float64 is a(t), `weight` (V, D_emb) float64 is W. Each start is tried with both
    signs.
    """
    if not starts or not rows.any():
        return None
    values, vectors = torch.linalg.svd(torch.from_numpy(rows).double(), full_matrices=False)[1:]
    shares = values.square() / values.square().sum()
    found = [
        _descend(torch.from_numpy(sign * start), vectors, shares, (before, weight))
        for start in starts
        for sign in (1.0, -1.0)
    ]
    return min(found, key=lambda one: one[0])[1]


def _descend(
    start: Tensor, vectors: Tensor, shares: Tensor, network: tuple[Tensor, Tensor]
) -> tuple[float, np.ndarray]:
    """Return the share left unexplained, and the embedding (D_emb,), at the end of a descent."""
    emb = start.clone().requires_grad_()
    optimizer, left = torch.optim.Adam([emb], lr=RATE), float("inf")
    for _ in range(NUM_STEPS):
        optimizer.zero_grad()
        loss = _unexplained(emb, vectors, shares, *network)
        loss.backward()
        optimizer.step()
        left = loss.item()
    return left, emb.detach().numpy()


def _unexplained(
    emb: Tensor, vectors: Tensor, shares: Tensor, before: Tensor, weight: Tensor
) -> Tensor:
    """Return the share of the gradients' squares outside the span of an embedding's h.

    `vectors` (min(R, V), V) are right singular vectors of the gradients, `shares` their weights.
    """
    basis = torch.cat([F.silu(before + weight @ emb), UNCONDITIONAL * F.silu(before)])  # (2T, V)
    gram = basis @ basis.T
    ridge = RIDGE**2 * torch.linalg.matrix_norm(gram.detach(), 2)
    inside = basis @ vectors.T  # (2T, n)
    solved = torch.linalg.solve(gram + ridge * torch.eye(len(gram), dtype=gram.dtype), inside)
    return 1 - (shares * (inside * solved).sum(dim=0)).sum()
