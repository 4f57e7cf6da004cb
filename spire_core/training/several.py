"""A client as a mixture over several embeddings: an image is drawn with one of them, by its weight.

Such a client's part is a table (M, D_emb + 1): a row is an embedding, and its weight in the last
column. A single embedding (D_emb,) is SPIRE's. Each of the client's images belongs to one row and
is shown with it. At first the rows are clusters of the images (k-means of pixels). Hard EM refines
them: at a look, each image goes to the row with the lowest denoising loss, a mean over all looks.
All rows of a look have the same noise.
N: the client's images, B: those of a batch.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from spire_core.rng import numpy_generator
from spire_core.training.context import ClientContext

PRIOR = 0.5  # images that each row has beside its own, in its weight
EVERY = 8  # rounds in which a client takes part, or epochs of a new one, between two looks


@dataclass(frozen=True)
class Assignment:
    """To which row each of a client's images belongs, (N,), and how it was found.

    `losses` (N, M): the mean over `num_looks` of each image's loss with each row; M is 0 for rows
    that are given. `num_visits`: the rounds in which the client took part.
    """

    rows: Tensor
    losses: Tensor
    num_looks: int = 0
    num_visits: int = 0

    @property
    def is_refined(self) -> bool:
        """Whether looks may change it."""
        return self.losses.shape[1] > 0

    def seen(self, losses: Tensor) -> "Assignment":
        """Return the assignment after another look, which gave the losses (N, M)."""
        mean = (self.losses * self.num_looks + losses) / (self.num_looks + 1)
        return replace(self, rows=mean.argmin(1), losses=mean, num_looks=self.num_looks + 1)


def table_of(embs: Tensor) -> Tensor:
    """Return embeddings (M, D_emb) as a client's part: equal weights, or a single embedding."""
    if len(embs) == 1:
        return embs[0]
    return torch.cat([embs, torch.full((len(embs), 1), 1 / len(embs))], dim=1)


def is_table(part: Tensor) -> bool:
    """Return whether a client's part has several embeddings."""
    return part.ndim == 2


def first_assignment(client: ClientContext, num_rows: int) -> Assignment:
    """Return the rows that a client's images are given, or their clusters.

    Of fewer images than rows each has its own.
    """
    if client.rows is not None:
        return Assignment(client.rows, torch.zeros(len(client.rows), 0))
    pixels = client.images.flatten(1).double().numpy()
    rows = np.arange(len(pixels))
    if len(pixels) > num_rows:
        from scipy.cluster.vq import kmeans2  # late: a part of a second, for few runs

        rng = numpy_generator(client.seed, "clusters", client.client_id)
        _, rows = kmeans2(pixels, num_rows, minit="++", rng=rng)
    return Assignment(torch.from_numpy(rows).long(), torch.zeros(len(rows), num_rows))


def rows_by_class(labels: np.ndarray, num_rows: int) -> Tensor:
    """Return the rows (N,) of images by their labels (N,): one for each of the commonest classes.

    The last row is that of all other classes.
    """
    classes, counts = np.unique(labels, return_counts=True)
    ranks = np.empty(len(classes), np.int64)
    ranks[np.argsort(-counts, kind="stable")] = np.arange(len(classes))
    return torch.from_numpy(np.minimum(ranks[np.searchsorted(classes, labels)], num_rows - 1))


def with_weights(part: Tensor, assignment: Assignment) -> Tensor:
    """Return a client's table with the weights of an assignment: shares of its images."""
    counts = torch.bincount(assignment.rows, minlength=len(part)) + PRIOR
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
