"""Errors measured over replicates: independent draws in blocks, their scores and their slopes."""

import math
from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from spire_core.rng import numpy_generator

BLOCK = 2**15  # numbers at a time: they fit a core's cache, and malloc keeps their memory
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


def scores(values: Mapping[str, Tensor]) -> dict[str, float]:
    """Return the mean of each quantity (R,) by its name, and its standard error as `NAME +-`."""
    found = {}
    for name, v in values.items():
        found |= {name: float(v.mean()), f"{name} +-": float(v.std()) / math.sqrt(len(v))}
    return found


def slope(x: pd.Series, y: pd.Series, errors: pd.Series) -> tuple[float, float]:
    """Return the log-log slope of points by weighted least squares, and its error."""
    found, cov = np.polyfit(np.log(x), np.log(y), 1, w=y / errors, cov="unscaled")
    return float(found[0]), math.sqrt(cov[0, 0])


def errors_off(frame: pd.DataFrame, name: str, expected: str) -> float:
    """Return the largest distance between two columns, in standard errors of the first."""
    return float(((frame[name] - frame[expected]).abs() / frame[f"{name} +-"]).max())
