"""Updates as clipped changes on a grid, and the noise that joins their sum once.

A client's change of the shared weights w - w_0 is scaled down to the clip norm C if it is longer,
and rounded towards zero to whole steps of C / 2^24. The sum over a cohort is one of integers, in
which every client counts the same. A client's summand is at most C long, in its last bit too. With
`client.engine=loop` no other summand depends on it, so that adding or leaving out a client changes
the sum by at most C. With `grouped` the others move by the rounding of their float sums as well
(docs/privacy.md). The noise is rounded to the same grid and joins the sum as a summand of its own.

With adaptive clipping one more number is summed: b - 1/2, with b whether the change was within C.
S: length of the shared weights.
"""

import math

import numpy as np

from spire_core.federated.messages import Broadcast, ClientUpdate
from spire_core.federated.sums import HiddenSum, MeanUpdate
from spire_core.privacy.guarantee import PrivateRound
from spire_core.privacy.noise import GRID, LONGEST, SecretNoise, noise_steps

NOISE = -1  # stands in the place of a client's id for the summand that is the noise


class ClippedFormat:
    """The integers of a private round's updates, and back: `size` of them."""

    def __init__(self, broadcast: Broadcast, num_shared: int, private: PrivateRound) -> None:
        self.before, self.private = broadcast.weights[:num_shared], private
        self.size = num_shared + (0 if private.count_noise is None else 1)

    def encode(self, update: ClientUpdate) -> np.ndarray:
        """Return a client's update as integers (size,) uint64.

        One with numbers that are not finite counts as zero: an error would tell that its client
        takes part.
        """
        clip_norm = self.private.clip_norm
        change = update.weights.astype(np.float64) - self.before
        # A library's product of long vectors adds up a part for each thread, in other bits.
        norm = math.sqrt(float(np.square(change).sum()))
        steps = np.zeros(self.size, dtype=np.int64)
        if np.isfinite(norm):
            steps[: change.size] = np.trunc(change * (LONGEST / max(norm, clip_norm)))
        if self.private.count_noise is not None:
            steps[-1] = GRID // 2 if norm <= clip_norm else -GRID // 2
        return steps.view(np.uint64)

    def noise(self, noise: SecretNoise, round_idx: int) -> np.ndarray:
        """Return the noise of a round as integers (size,) uint64, the same whenever it is asked."""
        deviations = np.full(self.size, self.private.sum_noise)
        if self.private.count_noise is not None:
            deviations[-1] = self.private.count_noise
        normals = noise.normals(self.size, "round", round_idx)
        return noise_steps(deviations, normals).view(np.uint64)

    def decode(self, total: HiddenSum) -> MeanUpdate:
        """Return the mean update of a noisy sum, over the expected number of clients."""
        means = total.numbers.view(np.int64) / (GRID * self.private.expected)
        change = means[: self.before.size] * self.private.clip_norm
        within = None if self.private.count_noise is None else float(means[-1]) + 0.5
        return MeanUpdate((self.before + change).astype(np.float32), share_within=within)
