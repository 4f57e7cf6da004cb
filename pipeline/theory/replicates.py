"""Errors measured over replicates: independent draws in blocks, their scores, tables and slopes."""

import math
from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from pipeline.theory.config import TheoryConfig
from spire_core.rng import numpy_generator

BLOCK = 2**15  # numbers at a time: they fit a core's cache, and malloc keeps their memory
Measure = Callable[[int, np.random.Generator], Mapping[str, Tensor]]
"""Maps a number of replicates and a generator to the values (num,) of each quantity by name."""


def draw_replicates(
    config: TheoryConfig, usual: int, size: int, stream: tuple[str, int], measure: Measure
) -> dict[str, Tensor]:
    """Return the values (R,) of each quantity that `measure(num, generator)` names.

    `usual`: R, unless the settings name another number. `size`: how many numbers one replicate
    works on. Replicates are measured in blocks. The generator of a block is a function of the seed,
    of `stream` (purpose, point) and of the block's number.
    """
    replicates = config.replicates or usual
    num = max(1, min(replicates, BLOCK // size))
    blocks: dict[str, list[Tensor]] = {}
    for block, start in enumerate(range(0, replicates, num)):
        generator = numpy_generator(config.seed, *stream, block)
        for name, values in measure(min(num, replicates - start), generator).items():
            blocks.setdefault(name, []).append(values)
    return {name: torch.cat(parts) for name, parts in blocks.items()}


def scores(values: Mapping[str, Tensor]) -> dict[str, float]:
    """Return the mean of each quantity (R,) by its name, and its standard error as `NAME +-`."""
    found = {}
    for name, v in values.items():
        found |= {name: float(v.mean()), f"{name} +-": float(v.std()) / math.sqrt(len(v))}
    return found


def wide(rows: pd.DataFrame, x: str, by: str, form: str, ends: Mapping[str, str]) -> pd.DataFrame:
    """Return a row for each `x`; for each value of `by`, named by `form`, its columns of `rows`.

    `ends`: these columns, and what follows the name of the value.
    """
    groups = [(form.format(value), own.set_index(x)) for value, own in rows.groupby(by, sort=False)]
    return pd.DataFrame(
        {f"{name}{end}": own[key] for name, own in groups for key, end in ends.items()}
    )


def slope(x: pd.Series, y: pd.Series, errors: pd.Series) -> tuple[float, float]:
    """Return the log-log slope of points by weighted least squares, and its error."""
    found, cov = np.polyfit(np.log(x), np.log(y), 1, w=y / errors, cov="unscaled")
    return float(found[0]), math.sqrt(cov[0, 0])


def errors_off(frame: pd.DataFrame, name: str, expected: str) -> float:
    """Return the largest distance between two columns, in standard errors of the first."""
    return float(((frame[name] - frame[expected]).abs() / frame[f"{name} +-"]).max())
