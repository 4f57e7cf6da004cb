"""Noisy sums of vectors of bounded length: the only way from private images to what is published.

Vectors are clipped, rounded towards zero to whole multiples of a grid, and summed as integers. The
noise is rounded to the same grid. A sum is therefore exact, in any order and grouping. One vector
changes it by at most the clip norm, also in the last bit (docs/privacy.md has what vectors that are
computed together owe to each other). Since the noisy sum lies on the grid, it has no low bits that
could tell the sum from its noise (Mironov 2012). n: vectors, P: numbers of one.
"""

import numpy as np
import torch
from torch import Tensor

from spire_core.privacy.noise import GRID, LONGEST, noise_steps

CACHED = 2**18  # numbers that are scaled at once, few enough for a processor's cache


class BoundedSum:
    """The sum of clipped vectors (P,), in steps of `clip_norm` / `GRID`."""

    def __init__(self, size: int, clip_norm: float, device: torch.device | str = "cpu") -> None:
        self.clip_norm = clip_norm
        self.steps = torch.zeros(size, dtype=torch.int64, device=device)

    def add(self, vectors: Tensor) -> None:
        """Add vectors (n, P), each scaled down to the clip norm if it is longer.

        A vector with numbers that are not finite counts as zero. An error would tell that it is
        among the images, and zero is a contribution within the bound.
        """
        for several in vectors.split(max(1, CACHED // max(1, len(self.steps)))):
            exact = several.double()
            norms = torch.linalg.vector_norm(exact, dim=1)
            scales = LONGEST / norms.clamp(min=self.clip_norm)
            finite = torch.isfinite(norms)
            if not finite.all():
                exact, scales = exact[finite], scales[finite]
            self.steps += (exact * scales[:, None]).long().sum(0)  # towards zero

    def release(self, noise_multiplier: float, normals: np.ndarray) -> Tensor:
        """Return the sum with noise of standard deviation sigma C, as float64 (P,).

        `normals` (P,): independent standard normals that are used nowhere else.
        """
        noise = torch.from_numpy(noise_steps(noise_multiplier, normals))
        total = self.steps + noise.to(self.steps.device)
        return total.double() * (self.clip_norm / GRID)
