"""Embeddings that a server can compute from the messages of a round.

The embedding e enters the network through a linear layer W without bias, so a step's gradient of W
is g e^T with one vector g: rank one, and its row space is e. Sums of such gradients, as Adam's
first moment, keep that row space. Length and sign of e stay open, hence |cos| as the measure.
With several embeddings a client's gradients have as many ranks. V: width of the conditioning
vector; D: numbers of an embedding; K: clients; M: embeddings of each.
"""

import numpy as np


def gradients_in_moment(after: np.ndarray, before: np.ndarray, decay: float) -> np.ndarray:
    """Return the part of Adam's first moment that a round's gradients have added.

    m_tau = beta1^tau m_0 + (1 - beta1) sum_s beta1^(tau - s) g_s (Kingma & Ba 2015, algorithm 1);
    the server knows m_0, since it has handed it out. `decay`: beta1^tau, or that of a mean over
    clients, the mean of theirs.
    """
    return after - decay * before


def top_direction(matrix: np.ndarray) -> np.ndarray | None:
    """Return the first right singular vector (D,) of a matrix (V, D); None if that is zero."""
    if not matrix.any():
        return None
    return np.linalg.svd(matrix.astype(np.float64), full_matrices=False)[2][0]


def abs_cos(direction: np.ndarray | None, emb: np.ndarray) -> float:
    """Return |cos| of a direction (D,) and an embedding (D,); 0 for no direction or a zero one."""
    if direction is None:
        return 0.0
    norms = float(np.linalg.norm(direction) * np.linalg.norm(emb))
    return abs(float(direction @ emb)) / norms if norms > 0 else 0.0


def chance_cos(embs: np.ndarray) -> float:
    """Return the largest |cos| between two clients' embeddings (K, M, D); NaN for fewer than two.

    A recovered direction that is not closer to its client than this says nothing.
    """
    if len(embs) < 2:
        return float("nan")
    unit = embs / np.maximum(np.linalg.norm(embs, axis=2, keepdims=True), 1e-30)
    between = np.abs(np.einsum("jmd,knd->jkmn", unit, unit)).max(axis=(2, 3))
    np.fill_diagonal(between, 0.0)
    return float(between.max())


def span_shares(matrix: np.ndarray, rank: int, embs: np.ndarray) -> np.ndarray:
    """Return the share of each embedding's length (K,) inside a matrix's top right space.

    The matrix (V, D) is a sum over clients with `rank` embeddings in all, so its row space is their
    span. A share of 1 says that the embedding (a row of `embs` (K, D)) lies in it; a random one has
    about sqrt(rank / D).
    """
    if not matrix.any():
        return np.zeros(len(embs))
    space = np.linalg.svd(matrix.astype(np.float64), full_matrices=False)[2][:rank]
    lengths = np.maximum(np.linalg.norm(embs, axis=1), 1e-30)
    return np.linalg.norm(embs @ space.T, axis=1) / lengths
