"""Precision and recall of generated images, as torch-fidelity computes them.

Kynkaanniemi et al. 2019 (arXiv 1904.06991), eq. 1 to 3: every image is surrounded by a ball that
reaches to its third nearest image of the same set. Precision is the share of generated images in
the balls of real ones, recall that of real images in the balls of generated ones.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from spire_core.errors import DataError
from spire_core.rng import numpy_generator

NEIGHBOURHOOD = 3
MAX_IMAGES = 2000  # of each set, over all clients


def pooled_precision_recall(
    generated: Sequence[Tensor], real: Sequence[Tensor], seed: int
) -> tuple[float, float] | None:
    """Return precision and recall of several clients' features (n, D) together.

    Balls shrink with the number of images. Both sets therefore have equally many of each client,
    chosen at random, and at most `MAX_IMAGES` in all: of more clients, as many have an image each,
    chosen at random too. None where too few are left for a ball, or where features have no numbers.
    DataError if the clients differ in number.
    """
    if len(generated) != len(real):
        raise DataError(f"expected as many clients, got {len(generated)} and {len(real)}")
    limit = per_client(len(real))
    counts = [min(len(g), len(r), limit) for g, r in zip(generated, real, strict=True)]
    order = numpy_generator(seed, "precision_recall_clients").permutation(len(counts))
    for left_out in order[MAX_IMAGES:]:
        counts[left_out] = 0
    if sum(counts) <= NEIGHBOURHOOD or real[0].shape[1] == 0:
        return None
    drawn, known = (
        torch.cat([some(f, n, seed, i) for i, (f, n) in enumerate(zip(sets, counts, strict=True))])
        for sets in (generated, real)
    )
    return _precision_recall(drawn.double(), known.double())


def some(features: Tensor, num: int, seed: int, client: int) -> Tensor:
    """Return a random choice of one client's features, in random order; all if it has no more."""
    order = numpy_generator(seed, "precision_recall", client).permutation(len(features))
    return features[torch.from_numpy(order[:num])]


def per_client(num_clients: int) -> int:
    """Return how many images of each of so many clients count at most."""
    return max(1, MAX_IMAGES // max(1, num_clients))


def _precision_recall(generated: Tensor, real: Tensor) -> tuple[float, float]:
    from torch_fidelity.metric_prc import prc_features_to_metric  # its import takes two seconds

    sizes = {"prc_neighborhood": NEIGHBOURHOOD, "prc_batch_size": MAX_IMAGES}
    found = prc_features_to_metric(generated, real, **sizes, save_cpu_ram=False, verbose=False)
    return found["precision"], found["recall"]
