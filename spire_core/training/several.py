"""A client as a mixture over several embeddings: an image is drawn with one of them, by its weight.

Such a client's part is a table (M, D_emb + 1): a row is an embedding, and its weight in the last
column. A single embedding (D_emb,) is SPIRE's. Each of the client's images belongs to one row and
is shown with it: that of its cluster, or of its class.
N: the client's images, B: those of a batch.
"""

import numpy as np
import torch
from torch import Tensor

from spire_core.rng import numpy_generator
from spire_core.training.context import ClientContext

PRIOR = 0.5  # images that each row has beside its own, in its weight
NUM_STARTS = 8  # of k-means, of which the tightest clusters count


def table_of(embs: Tensor) -> Tensor:
    """Return embeddings (M, D_emb) as a client's part: equal weights, or a single embedding."""
    if len(embs) == 1:
        return embs[0]
    return torch.cat([embs, torch.full((len(embs), 1), 1 / len(embs))], dim=1)


def is_table(part: Tensor) -> bool:
    """Return whether a client's part has several embeddings."""
    return part.ndim == 2


def rows_by_cluster(client: ClientContext, num_rows: int) -> Tensor:
    """Return the rows (N,) of a client's images by their clusters (k-means of pixels).

    Of fewer images than rows each has its own.
    """
    from scipy.cluster.vq import kmeans2  # late: a part of a second, for few runs

    pixels = client.images.flatten(1).double().numpy()
    if len(pixels) <= num_rows:
        return torch.arange(len(pixels))
    rng = numpy_generator(client.seed, "clusters", client.client_id)
    found = [kmeans2(pixels, num_rows, minit="++", rng=rng) for _ in range(NUM_STARTS)]
    _, rows = min(found, key=lambda one: np.square(pixels - one[0][one[1]]).sum())
    return torch.from_numpy(rows).long()


def rows_by_class(labels: np.ndarray, num_rows: int) -> Tensor:
    """Return the rows (N,) of images by their labels (N,): one for each of the commonest classes.

    The last row is that of all other classes.
    """
    classes, counts = np.unique(labels, return_counts=True)
    ranks = np.empty(len(classes), np.int64)
    ranks[np.argsort(-counts, kind="stable")] = np.arange(len(classes))
    return torch.from_numpy(np.minimum(ranks[np.searchsorted(classes, labels)], num_rows - 1))


def with_weights(part: Tensor, rows: Tensor) -> Tensor:
    """Return a client's table with weights: the shares of its images' rows (N,)."""
    counts = torch.bincount(rows, minlength=len(part)) + PRIOR
    weights = (counts / counts.sum()).to(part)
    return torch.cat([part.detach()[:, :-1], weights[:, None]], dim=1)


def shown(part: Tensor, rows: Tensor | None) -> Tensor:
    """Return what images are shown with: the embedding (D_emb,), or that of each one's row (B,)."""
    return part if rows is None else part[rows, :-1]


def embs_of(part: Tensor) -> Tensor:
    """Return a client's embeddings (M, D_emb), without weights."""
    return part[:, :-1] if is_table(part) else part[None]


def drawn(part: Tensor, num_images: int, generator: torch.Generator) -> Tensor:
    """Return the embeddings (num_images, D_emb) of drawn images: the one, or some by weights."""
    if not is_table(part):
        return part.expand(num_images, -1)
    weights = part[:, -1].cpu()
    rows = torch.multinomial(weights, num_images, replacement=True, generator=generator)
    return part[rows.to(part.device), :-1]
