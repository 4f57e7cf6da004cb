"""Exact sums of weighted float32 arrays in two int64 levels: order and grouping change no bit.

A product n a of a whole weight and a float32 number is rounded once, by itself, to a whole multiple
of 2^(u - 40). Sums of such multiples are sums of integers, which are associative (the bins of
Demmel & Nguyen 2015, "Parallel reproducible summation"). With |a| < 2^top and weights that add up
to less than 2^shift, u = top + shift - 62 keeps both levels within int64 for up to 2^22 summands.
A number far below the largest may lose bits: in the first round of `mnist-cpu` those of Adam's
second moments that are below 1e-16, and nothing else.
"""

import math

import numpy as np

from spire_core.errors import DivergenceError

STEP_BITS = 40  # between the units of the two levels
SPARE_BITS = 24  # by which a number may outgrow the largest that was handed out
BLOCK = 1 << 14  # numbers at once: the scratch arrays stay in the processor's cache
BYTES = 16  # of a number in a sum


def top_of(handed_out: np.ndarray | None, otherwise: int, margin: int = SPARE_BITS) -> int:
    """Return the exponent below which numbers stay that begin at those handed out, or at none."""
    largest = 0.0 if handed_out is None else float(np.abs(handed_out).max(initial=0.0))
    return math.frexp(largest)[1] + margin if largest > 0 else otherwise


class ExactSum:
    """The sum of n_k a_k over arrays a_k (size,) float32 with whole weights n_k."""

    def __init__(self, size: int, top: int, total_weight: int) -> None:
        self.top, self.unit = top, top + total_weight.bit_length() - 62
        self.levels = np.zeros((2, size), dtype=np.int64)

    def add(self, array: np.ndarray, weight: int) -> None:
        """Add an array times its weight; DivergenceError for NaN, infinity or 2^top and more."""
        if not np.abs(array).max(initial=0.0) < math.ldexp(1.0, self.top):
            raise DivergenceError(f"numbers that are not finite and below 2^{self.top}")
        scale = math.ldexp(weight, -self.unit)
        for start in range(0, array.size, BLOCK):
            at = slice(start, start + BLOCK)
            rest = np.multiply(array[at], scale, dtype=np.float64)
            whole = np.rint(rest)
            self.levels[0, at] += whole.astype(np.int64)
            rest -= whole
            rest *= 2.0**STEP_BITS
            self.levels[1, at] += np.rint(rest).astype(np.int64)

    def merge(self, other: "ExactSum") -> None:
        """Add a sum of the same form over other arrays."""
        self.levels += other.levels

    def mean(self, total_weight: int) -> np.ndarray:
        """Return the sum (size,) over the sum of its weights, as float32."""
        high, low = self.levels
        if not low.any():
            return (high * math.ldexp(1.0, self.unit) / total_weight).astype(np.float32)
        carry = (low + (1 << (STEP_BITS - 1))) >> STEP_BITS
        low = (low - (carry << STEP_BITS)) * math.ldexp(1.0, self.unit - STEP_BITS)
        total = low + (high + carry) * math.ldexp(1.0, self.unit)
        return (total / total_weight).astype(np.float32)
