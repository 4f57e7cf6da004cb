"""Metrics beside KID: the classes of generated images, and their distance to real ones.

Letters: N samples, M references, K classes, P = C H W pixel values.
"""

import numpy as np
import torch
from torch import Tensor

_CHUNK = 1024  # references compared at a time


def class_histogram(predictions: Tensor, num_classes: int) -> np.ndarray:
    """Return the share of each class (K,) float64 among predicted classes (N,) int64."""
    return torch.bincount(predictions, minlength=num_classes).double().numpy() / len(predictions)


def total_variation(p: np.ndarray, q: np.ndarray) -> float:
    """Return 1/2 sum |p_k - q_k| of two histograms (K,): 0 if they are equal, 1 if disjoint.

    For several histograms p (M, K) it is the mean of their distances.
    """
    return float(np.abs(p - q).sum(-1).mean() / 2)


def nearest_neighbour_distance(samples: Tensor, references: Tensor) -> float:
    """Return the mean distance of samples (N, C, H, W) to their nearest reference (M, C, H, W).

    The distance is Euclidean, over all pixels of images in [-1, 1], and near 0 for copies of the
    references. Compare it with the same measure of unseen real images.
    """
    x = samples.flatten(1).double()  # (N, P): in float64, since the squares below cancel for copies
    nearest = torch.full((len(x),), torch.inf, dtype=torch.float64)
    for chunk in references.flatten(1).double().split(_CHUNK):
        squared = x.square().sum(1, keepdim=True) + chunk.square().sum(1) - 2 * x @ chunk.T
        nearest = torch.minimum(nearest, squared.amin(1))
    return float(nearest.clamp(min=0).sqrt().mean())


def paired_distance(images: Tensor, truth: Tensor) -> float:
    """Return the mean absolute difference of images (N, C, H, W) in [-1, 1] to their own truths.

    It is a share of the range of a pixel: 0 for the truths, 1 for their negatives in black and
    white.
    """
    return float((images - truth).abs().double().mean() / 2)
