"""Exact sums of weighted float32 arrays: neither order nor grouping changes a bit.

A float32 number a is a whole multiple of 2^-24 |a| or less, so n a with a whole weight n is so too.
A sum of such products is kept as whole numbers in units of powers of two, in int64, whose addition
is associative. Level 0 has the unit 2^u. A product that is no multiple of it leaves a remainder,
of half a unit at most, to level 1, whose unit is 2^(u - 40), and so on down. Nothing is rounded
before the end: the sum is the true one, as a superaccumulator's (Kulisch 1971; the levels are the
bins of Demmel & Nguyen 2015, "Parallel reproducible summation", without their rounding).

Bounds. Let `top` be an exponent with |a| < 2^top and let the weights add up to 2^shift at most.
With u = top + shift - 62 the whole numbers of level 0 stay within 2^62. Those of another level are
at most 2^39 for each product, so that 2^22 products stay within 2^61. A number of 2^top or more,
which nobody expected, begins at a level above 0 instead, with the same bound on its remainders. The
mean is the sum, within 2^-52 of its size, over the sum of weights, rounded to float32 once: at most
one last place off the exact mean's rounding, and nearly always that.

Most numbers of a vector of weights are within 2^20 or so of its largest one. These need level 0
alone, 8 bytes each. Another level takes memory only in pages of 4 KiB where a product reached it.
"""

import math
import mmap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

LEVEL_BITS = 62  # of the whole numbers of level 0
STEP_BITS = 40  # between the units of two levels
BLOCK = 1 << 14  # numbers at once: the scratch arrays stay in the processor's cache
SAMPLE = 1 << 16  # numbers of an array that tell how large most of them are
MARGIN_BITS = 6  # between their mean size and `top`
DENSE = 8  # a level is added to as a whole where more than one in so many numbers reach it


@dataclass(frozen=True)
class Scale:
    """The units of a sum: `top` and `shift` of the module's docstring.

    All partial sums of one sum need the same scale.
    """

    top: int
    shift: int

    @classmethod
    def of(cls, expected: np.ndarray | None, total_weight: int, otherwise: int = 0) -> "Scale":
        """Return the scale for arrays about as large as `expected`; `otherwise` is its top.

        The top is that of most numbers, not of all: the largest ones would cost the others bits.
        """
        shift = max(1, total_weight).bit_length()
        if expected is None:
            return cls(otherwise, shift)
        some = np.abs(expected[:: max(1, expected.size // SAMPLE)])
        size = float(some.mean(dtype=np.float64))
        return cls(math.frexp(size)[1] + MARGIN_BITS if size > 0 else otherwise, shift)

    def unit(self, level: int) -> int:
        """Return the exponent of a level's unit."""
        return self.top + self.shift - LEVEL_BITS - STEP_BITS * level

    @property
    def highest_level(self) -> int:
        """The level, at most 0, that holds any float32 number times a share of the weights."""
        return -max(0, -(-(128 - self.top) // STEP_BITS))


class ExactSum:
    """The sum of n_k a_k over arrays a_k (size,) float32 with whole weights n_k < 2^29."""

    def __init__(self, size: int, scale: Scale) -> None:
        self.size, self.scale = size, scale
        self.levels: dict[int, np.ndarray] = {}
        self._scratch = np.empty((2, min(BLOCK, size)))

    def add(self, array: np.ndarray, weight: int) -> None:
        """Add an array of finite numbers times its weight; every product is exact in float64."""
        limit, unit = math.ldexp(1.0, self.scale.top), math.ldexp(weight, -self.scale.unit(0))
        for start in range(0, self.size, BLOCK):
            part = array[start : start + BLOCK]
            rest = self._scratch[0, : part.size]
            np.multiply(part, unit, out=rest, dtype=np.float64)
            if float(part.max()) >= limit or float(part.min()) <= -limit:
                at = np.flatnonzero(np.abs(rest) >= limit * unit)
                highest = self.scale.highest_level
                self._add_few(highest, start + at, np.ldexp(rest[at], STEP_BITS * (highest - 1)))
                rest[at] = 0.0
            self._add_digits(0, start, rest)

    def _add_digits(self, level: int, start: int, rest: np.ndarray) -> None:
        """Add numbers in units of a level to it, and what is left of them to the levels below."""
        whole = self._scratch[1, : rest.size]
        np.rint(rest, out=whole)
        self._level(level)[start : start + rest.size] += whole.astype(np.int64)
        rest -= whole
        if not rest.any():
            return
        at = np.flatnonzero(rest)
        if DENSE * at.size > rest.size:
            rest *= 2.0**STEP_BITS
            self._add_digits(level + 1, start, rest)
        else:
            self._add_few(level + 1, at + start, rest[at])

    def _add_few(self, level: int, at: np.ndarray, rest: np.ndarray) -> None:
        """Do as `_add_digits` with numbers at some places, in units of the level above."""
        while at.size:
            rest = rest * 2.0**STEP_BITS
            whole = np.rint(rest)
            if whole.any():
                is_here = whole != 0
                self._level(level)[at[is_here]] += whole[is_here].astype(np.int64)
            rest = rest - whole
            is_left = rest != 0
            level, at, rest = level + 1, at[is_left], rest[is_left]

    def _level(self, level: int) -> np.ndarray:
        """Return a level's whole numbers, zero where none was added."""
        if level not in self.levels:
            # Not malloc's pages, which may be large: those that nothing is added to take no memory.
            flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
            pages = mmap.mmap(-1, 8 * max(1, self.size), flags=flags)
            self.levels[level] = np.frombuffer(pages, dtype=np.int64, count=self.size)
        return self.levels[level]

    def part(self, start: int, stop: int) -> "PartialSum":
        """Return a view of a stretch, without the levels that are zero there."""
        parts = ((level, numbers[start:stop]) for level, numbers in sorted(self.levels.items()))
        levels = {level: part for level, part in parts if part.any()}
        return PartialSum(self.scale, len(range(*slice(start, stop).indices(self.size))), levels)


@dataclass(frozen=True)
class PartialSum:
    """A stretch (size,) of a sum, as whole numbers (size,) int64 by level."""

    scale: Scale
    size: int
    levels: Mapping[int, np.ndarray]

    def __add__(self, other: "PartialSum") -> "PartialSum":
        """Return the sum of two sums of one scale over different arrays."""
        first, second = self.levels, other.levels
        both = {level: first[level] + second[level] for level in first.keys() & second.keys()}
        return replace(self, levels={**first, **second, **both})

    def mean(self, total_weight: int) -> np.ndarray:
        """Return the sum (size,) over the sum of its weights, as float32."""
        mean = np.empty(self.size, dtype=np.float32)
        for start in range(0, self.size, BLOCK):
            at = slice(start, start + BLOCK)
            total = np.zeros(mean[at].size)
            for level, numbers in self._carried(at):
                total += numbers * math.ldexp(1.0, self.scale.unit(level))
            mean[at] = total / total_weight
        return mean

    def _carried(self, at: slice) -> Iterator[tuple[int, np.ndarray]]:
        """Yield the levels of a stretch from the lowest on, each within 2^39.

        What is beyond is carried to the level above, also from the highest one: which levels a
        stretch has is then the same to each number in it. The float sum in this order loses nothing
        to cancellation between levels. A level that is alone is rounded once, carried or not.
        """
        highest, lowest = min(self.levels, default=0), max(self.levels, default=0)
        top = highest if highest == lowest else highest - 1
        nothing = carry = np.zeros(len(range(*at.indices(self.size))), dtype=np.int64)
        for level in range(lowest, top - 1, -1):
            numbers = (self.levels[level][at] if level in self.levels else nothing) + carry
            if level > top:
                carry = (numbers + (1 << (STEP_BITS - 1))) >> STEP_BITS
                numbers = numbers - (carry << STEP_BITS)
            yield level, numbers
