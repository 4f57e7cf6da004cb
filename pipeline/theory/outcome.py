"""What a theory experiment returns: tables, panels to draw, and claims with their verdicts."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from spire_core.rng import numpy_generator

BLOCK = 2**15  # numbers at a time: they fit a core's cache, and malloc keeps their memory
NUM_ERRORS = 4.0  # standard errors by which chance may break a claim


class Score(NamedTuple):
    """A mean over replicates and its standard error."""

    mean: float
    error: float

    def scaled(self, factor: float) -> "Score":
        """Return both times a factor, such as n for n * MSE."""
        return Score(self.mean * factor, self.error * factor)


@dataclass(frozen=True)
class Curve:
    """Points (x, y) and their standard errors; a reference is a dashed line without markers."""

    points: Sequence[tuple[float, float]]
    errors: Sequence[float] = ()
    is_reference: bool = False


@dataclass(frozen=True)
class Panel:
    """One set of axes; `scale` is `loglog`, `logx`, `logy` or `linear`.

    `ticks` name the places x = 0, 1, ... of categories, whose points are not joined.
    """

    title: str
    xlabel: str
    ylabel: str
    curves: Mapping[str, Curve]
    scale: str = "loglog"
    ticks: Sequence[str] = ()
    is_joined: bool = True


@dataclass(frozen=True)
class Claim:
    """A sentence with its numbers, and whether they confirm it (None: an observation)."""

    text: str
    is_met: bool | None = None

    def __str__(self) -> str:
        """Return the sentence behind its verdict."""
        return f"{'note' if self.is_met is None else 'ok  ' if self.is_met else 'FAIL'} {self.text}"


@dataclass(frozen=True)
class Outcome:
    """The result of one experiment; `tables` are columns, `numbers` become metrics."""

    name: str
    title: str
    claims: Sequence[Claim]
    tables: Mapping[str, Mapping[str, Sequence[Any]]]
    panels: Sequence[Panel]
    numbers: Mapping[str, float] = field(default_factory=dict)


def score(values: Tensor) -> Score:
    """Return the mean of (R,) and its standard error."""
    return Score(float(values.mean()), float(values.std()) / math.sqrt(len(values)))


Measure = Callable[[int, np.random.Generator], Mapping[str, Tensor]]
"""Maps a number of replicates and a generator to the values (num,) of each quantity by name."""


def draw_replicates(
    replicates: int, size: int, stream: tuple[int, str, int], measure: Measure
) -> dict[str, Tensor]:
    """Return the values (replicates,) of each quantity that `measure(num, generator)` names.

    `size`: how many numbers one replicate works on. Replicates are measured in blocks. The
    generator of a block is a function of `stream` (seed, purpose, point) and the block's number.
    """
    num = max(1, min(replicates, BLOCK // size))
    blocks: dict[str, list[Tensor]] = {}
    for block, start in enumerate(range(0, replicates, num)):
        generator = numpy_generator(*stream, block)
        for name, values in measure(min(num, replicates - start), generator).items():
            blocks.setdefault(name, []).append(values)
    return {name: torch.cat(parts) for name, parts in blocks.items()}


def over_replicates(
    replicates: int, size: int, stream: tuple[int, str, int], measure: Measure
) -> dict[str, Score]:
    """Return the score of each quantity of `draw_replicates`."""
    values = draw_replicates(replicates, size, stream, measure)
    return {name: score(parts) for name, parts in values.items()}


def slope(points: Sequence[tuple[float, Score]]) -> Score:
    """Return the log-log slope of (x, score) points by weighted least squares, and its error."""
    x = np.log([p for p, _ in points])
    y = np.log([s.mean for _, s in points])
    weights = np.array([(s.mean / s.error) ** 2 for _, s in points])
    centred = x - (weights @ x) / weights.sum()
    total = weights @ centred**2
    return Score(float((weights * centred) @ y / total), float(1.0 / math.sqrt(total)))
