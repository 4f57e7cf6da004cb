"""What a theory experiment returns: tables, panels to draw, and claims with their verdicts."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

NUM_ERRORS = 4.0  # standard errors by which chance may break a claim
ROUNDING = 1e-9


@dataclass(frozen=True)
class Claim:
    """A sentence with its numbers, and whether they confirm it (None: an observation)."""

    text: str
    is_met: Any = None

    def __post_init__(self) -> None:  # a comparison in numpy or pandas has its own True and False
        object.__setattr__(self, "is_met", None if self.is_met is None else bool(self.is_met))

    def __str__(self) -> str:
        """Return the sentence behind its verdict."""
        return f"{'note' if self.is_met is None else 'ok  ' if self.is_met else 'FAIL'} {self.text}"


@dataclass(frozen=True)
class Panel:
    """One set of axes: columns of a frame against its index, which may hold names.

    A column "X +-" has the standard errors of the column "X". `references` are dashed lines.
    `scale` is `loglog`, `logx`, `logy` or `linear`.
    """

    title: str
    ylabel: str
    frame: pd.DataFrame
    measured: Sequence[str]
    references: Sequence[str] = ()
    scale: str = "loglog"
    is_joined: bool = True


@dataclass(frozen=True)
class Outcome:
    """The result of one experiment; `numbers` become metrics."""

    title: str
    claims: Sequence[Claim]
    tables: Mapping[str, pd.DataFrame]
    panels: Sequence[Panel] = ()
    numbers: Mapping[str, float] = field(default_factory=dict)

    def __add__(self, part: "Outcome") -> "Outcome":
        """Return both under the title of the first."""
        return Outcome(
            self.title,
            [*self.claims, *part.claims],
            {**self.tables, **part.tables},
            [*self.panels, *part.panels],
            {**self.numbers, **part.numbers},
        )

    def __str__(self) -> str:
        """Return title, tables and claims as they are printed."""
        tables = [f"{name}\n{_table(frame)}" for name, frame in self.tables.items()]
        return "\n\n".join([self.title, *tables, "\n".join(map(str, self.claims))])


def _table(frame: pd.DataFrame) -> str:
    """Return a frame with errors beside the values; a wide one is transposed."""
    cells = frame.map(_cell)
    for name in [name for name in map(str, frame) if name.endswith(" +-")]:
        errors, owner = cells.pop(name), name.removesuffix(" +-")
        known = cells[owner] != "-"
        cells[owner] = cells[owner].where(~known, cells[owner] + " +-" + errors)
    if cells.shape[1] > 8:
        return cells.T.to_string(header=False)
    return cells.to_string(index=False)


def _cell(value: Any) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:.3g}" if math.isfinite(value) else "-"
