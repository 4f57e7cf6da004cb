"""Noise that is correlated over rounds, for cohorts that cannot be drawn by chance.

Round t publishes its sum X_t and the noise sum_i d_i Z_{t-i} with i < p, where Z are independent.
Rounds then take back some of the noise of those before them, so that a sum over rounds, as weights
are, has less of it. All rounds together are the matrix mechanism X + C^-1 Z = C^-1 (C X + Z) with
Toeplitz matrices: C^-1 has p bands d, the first coefficients of (1 - x)^(1/2), and C the
coefficients c of 1 / d (banded inverse square root, Kalinin et al. 2025, arXiv 2505.12128).
Its loss is that of the Gaussian mechanism C X + Z, also where X depends on what was published
(Denisov et al. 2022, theorem 2.1).

A client takes part at most k times, at least b rounds apart. c falls and has no negative number, so
that a client changes C X most in rounds 0, b, 2 b, ..., by || sum_j C[:, j b] || clip norms
(Kalinin & Lampert 2024, arXiv 2405.13763). No chance is involved: nothing but the distance matters.
"""

import functools
from dataclasses import dataclass

import numpy as np

MAX_BANDS = 64  # the noise of a round is made of so many at most, each as long as the weights


@dataclass(frozen=True)
class CyclicRounds:
    """The noise of rounds whose cohorts follow a fixed order of all clients, again and again.

    `bands`: p, 1 for independent noise. The next `stride` of `num_clients` clients take part in a
    round.
    """

    bands: int
    num_clients: int
    stride: int

    @property
    def separation(self) -> int:
        """b, the rounds from one participation of a client to its next at least."""
        return self.num_clients // self.stride

    @property
    def weights(self) -> tuple[float, ...]:
        """d, by which the newest round's noise, that before, and so on are multiplied."""
        return tuple(_inverse_root(self.bands).tolist())

    def num_taken(self, num_rounds: int) -> int:
        """Return k, in how many of so many rounds a client takes part at most."""
        return -(-num_rounds * self.stride // self.num_clients)

    def sensitivity(self, num_rounds: int) -> float:
        """Return by how many clip norms a client changes all that so many rounds publish."""
        column = _column(self.bands, num_rounds)
        total = column.copy()
        for taken in range(1, self.num_taken(num_rounds)):
            start = taken * self.separation
            total[start:] += column[: num_rounds - start]
        return float(np.linalg.norm(total))

    def error(self, num_rounds: int) -> float:
        """Return the noise in the sums over rounds that a fixed budget asks for.

        It is the root mean square over rounds, in the clip norms of a number, for one Gaussian of
        noise 1: || A C^-1 ||_F / sqrt(n) sens(C) with A the prefix sums.
        """
        sums = np.cumsum(_padded(_inverse_root(self.bands), num_rounds))
        return self.sensitivity(num_rounds) * float(np.sqrt(np.cumsum(sums**2).mean()))


@functools.lru_cache(maxsize=16)
def cyclic_rounds(num_clients: int, stride: int, num_rounds: int) -> CyclicRounds:
    """Return the noise with the least error over so many rounds; bands are a power of two."""
    bands = [2**power for power in range(MAX_BANDS.bit_length()) if 2**power <= num_rounds]
    tried = [CyclicRounds(number, num_clients, stride) for number in bands]
    return min(tried, key=lambda one: one.error(num_rounds))


def _inverse_root(bands: int) -> np.ndarray:
    """Return the first coefficients of (1 - x)^(1/2): d_0 = 1, d_i = d_{i-1} (i - 3/2) / i."""
    i = np.arange(1, bands)
    return np.cumprod(np.concatenate([[1.0], (i - 1.5) / i]))


@functools.lru_cache(maxsize=16)
def _column(bands: int, num_rounds: int) -> np.ndarray:
    """Return the first column of C, (num_rounds,): c_t = - sum_{i > 0} d_i c_{t-i}, c_0 = 1."""
    later, column = _inverse_root(bands)[1:], _padded(np.ones(1), num_rounds)
    for t in range(1, num_rounds):
        earlier = column[max(0, t - len(later)) : t][::-1]
        column[t] = -later[: len(earlier)] @ earlier
    return column


def _padded(numbers: np.ndarray, size: int) -> np.ndarray:
    return np.pad(numbers[:size], (0, max(0, size - len(numbers))))
