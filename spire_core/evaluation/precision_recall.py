"""Precision and recall of generated images, as torch-fidelity computes them.

Kynkaanniemi et al. 2019 (arXiv 1904.06991), eq. 1 to 3: every image is surrounded by a ball that
reaches to its third nearest image of the same set. Precision is the share of generated images in
the balls of real ones, recall that of real images in the balls of generated ones.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from spire_core.rng import numpy_generator

NEIGHBOURHOOD = 3
MAX_IMAGES = 2000  # of each set, over all clients


def pooled_precision_recall(
    generated: Sequence[Tensor], real: Sequence[Tensor], seed: int, images: Sequence[np.ndarray]
) -> tuple[float, float] | None:
    """Return precision and recall of several clients' features (n, D) together.

    Balls shrink with the number of images. Both sets therefore have equally many of each client,
    chosen at random, and at most `MAX_IMAGES` in all: of more clients, as many have an image each,
    chosen at random too. `images`: for each client, the numbers (n,) of its real images. One that
    several have counts for one of them, since at distance 0 from itself it would shrink its own
    ball. None where too few are left for a ball, or where features have no numbers.
    """
    if not real or real[0].shape[1] == 0:
        return None
    limit = per_client(len(real))
    counts = [min(len(g), len(r), limit) for g, r in zip(generated, real, strict=True)]
    order = numpy_generator(seed, "precision_recall_clients").permutation(len(counts))
    for left_out in order[MAX_IMAGES:]:
        counts[left_out] = 0
    rows = _each_once([_order(len(own), seed, i) for i, own in enumerate(real)], images, counts)
    if sum(map(len, rows)) <= NEIGHBOURHOOD:
        return None
    drawn = [some(f, len(rows[i]), seed, i) for i, f in enumerate(generated)]
    known = [f[torch.from_numpy(own)] for f, own in zip(real, rows, strict=True)]
    return _precision_recall(torch.cat(drawn).double(), torch.cat(known).double())


def some(features: Tensor, num: int, seed: int, client: int) -> Tensor:
    """Return a random choice of one client's features, in random order; all if it has no more."""
    return features[torch.from_numpy(_order(len(features), seed, client)[:num])]


def _order(num: int, seed: int, client: int) -> np.ndarray:
    return numpy_generator(seed, "precision_recall", client).permutation(num)


def _each_once(
    rows: Sequence[np.ndarray], images: Sequence[np.ndarray], counts: Sequence[int]
) -> list[np.ndarray]:
    """Return up to `counts` of each client's `rows`, so that no image is there twice.

    Clients take turns, so that none is favoured: each takes the next of its rows whose image is
    left.
    """
    taken, chosen = set[int](), [list[int]() for _ in rows]
    pairs = zip(rows, images, strict=True)
    rests = [iter(zip(own, numbers[own], strict=True)) for own, numbers in pairs]
    for turn in range(max(counts)):
        for own, num, rest in zip(chosen, counts, rests, strict=True):
            left = (pair for pair in rest if pair[1] not in taken)
            if turn < num and (found := next(left, None)) is not None:
                own.append(found[0])
                taken.add(found[1])
    return [np.array(own, dtype=np.int64) for own in chosen]


def per_client(num_clients: int) -> int:
    """Return how many images of each of so many clients count at most."""
    return max(1, MAX_IMAGES // max(1, num_clients))


def _precision_recall(generated: Tensor, real: Tensor) -> tuple[float, float]:
    from torch_fidelity.metric_prc import prc_features_to_metric  # its import takes two seconds

    sizes = {"prc_neighborhood": NEIGHBOURHOOD, "prc_batch_size": MAX_IMAGES}
    found = prc_features_to_metric(generated, real, **sizes, save_cpu_ram=False, verbose=False)
    return found["precision"], found["recall"]
