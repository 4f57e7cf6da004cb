"""Novel KID: the KID of those generated images that are nearer to unseen than to training images.

Class by class as many unseen images as training images are put beside these. Unless a model has
memorised, its images are as often nearest to one of the first as to one of the second. Those that
are nearest to a training image are left out, and with them all copies; the others are scored
against further unseen images.
Letters: q generated, m training and n unseen images of one client; D features.
"""

import numpy as np
import torch
from torch import Tensor

from spire_core.evaluation.kid import kid
from spire_core.rng import numpy_generator

LEAST = 16  # novel images, below which they have no score


def beside_training(
    train_labels: np.ndarray, unseen_labels: np.ndarray, seed: int, client_id: int
) -> np.ndarray | None:
    """Return which unseen images (n,), bool, are put beside the training images.

    Labels are (m,) and (n,). None where a class has fewer than twice as many unseen images.
    """
    rng, chosen = numpy_generator(seed, "novelty", client_id), np.zeros(len(unseen_labels), bool)
    for label, num in zip(*np.unique(train_labels, return_counts=True), strict=True):
        held = np.flatnonzero(unseen_labels == label)
        if len(held) < 2 * num:
            return None
        chosen[rng.choice(held, num, replace=False)] = True
    return chosen


def is_novel(generated: Tensor, train: Tensor, beside: Tensor) -> Tensor:
    """Return which generated images (q,), bool, are nearer to one beside the training images.

    Images are (q, C, H, W) and twice (m, C, H, W); distances are Euclidean over pixels.
    """
    # Without a matrix product, so that a copy is at distance 0.
    mode = "donot_use_mm_for_euclid_dist"
    drawn, *sets = (images.flatten(1) for images in (generated, train, beside))
    to_train, to_beside = (torch.cdist(drawn, x, compute_mode=mode).amin(1) for x in sets)
    return to_beside < to_train


def novel_kid(
    features: Tensor, novel: Tensor, real: Tensor, kid_sizes: tuple[int, int, int]
) -> float | None:
    """Return the KID of the novel among generated images, None if fewer than `LEAST` are.

    `features` (q, D) and `novel` (q,) of the generated images, `real` (n - m, D) of the unseen
    images that do not stand beside the training images; `kid_sizes` as `kid` takes them.
    """
    return kid(real, features[novel], *kid_sizes).mean if novel.sum() >= LEAST else None
