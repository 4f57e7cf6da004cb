"""Numbers as integers modulo 2^64, the group in which masks cancel.

A number a with a whole weight n becomes the integer nearest to n a / 2^u, in one level. The unit is
2^u with u = top + shift - 62, where |a| < 2^top and the weights add up to less than 2^shift.

Range: |a| < 2^top; the sum then stays within 2^62, so that int64 holds it. What does not fit, and
NaN, is refused. Error: at most half a unit for each summand, and a unit where it is not rounded to
the nearest. With shift the number of bits of N, the sum of all weights, a mean of K summands is off
by at most K 2^(top - 62), or twice as much: less than float32 resolves at 2^(top - 38) K and above.
"""

import math
from dataclasses import dataclass

import numpy as np

SUM_BITS = 62
VECTOR_UNIT = -32  # exponent, of plain vectors such as embeddings
ROUNDINGS = {"nearest": np.rint, "to_zero": np.trunc, "up": np.ceil}


@dataclass(frozen=True)
class FixedPoint:
    """The form of numbers |a| < 2^top whose weights add up to less than 2^shift."""

    top: int
    shift: int
    rounding: str = "nearest"

    @property
    def unit(self) -> int:
        """The exponent of the unit."""
        return self.top + self.shift - SUM_BITS

    @property
    def limit(self) -> float:
        return math.ldexp(1.0, self.top)

    def fits(self, numbers: np.ndarray) -> bool:
        """Return whether all numbers are finite and within the range."""
        return bool((np.abs(numbers) < self.limit).all())

    def encode(self, numbers: np.ndarray, weight: int = 1) -> np.ndarray:
        """Return weighted numbers (n,) as integers modulo 2^64, uint64; they must fit."""
        scaled = numbers.astype(np.float64) * math.ldexp(weight, -self.unit)
        return ROUNDINGS[self.rounding](scaled).astype(np.int64).view(np.uint64)

    def decode(self, total: np.ndarray) -> np.ndarray:
        """Return a sum (n,) of such integers as float64."""
        return total.view(np.int64) * math.ldexp(1.0, self.unit)


def vector_form(num_members: int) -> FixedPoint:
    """Return the form of vectors in a sum of so many: in steps of 2^-32, below 2^29 / members."""
    shift = num_members.bit_length()
    return FixedPoint(SUM_BITS + VECTOR_UNIT - shift, shift)
