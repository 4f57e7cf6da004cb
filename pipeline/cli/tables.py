"""Numbers and tables for a terminal."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def number(value: Any) -> str:
    """Return a number in three digits, "-" for an unknown one; other values as they are."""
    if isinstance(value, str | int | list):
        return str(value)
    if value is None or not math.isfinite(value):
        return "-"
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def change(before: float | None, after: float | None) -> str:
    """Return two numbers with an arrow between them, or "-" where both are unknown."""
    if (number(before), number(after)) == ("-", "-"):
        return "-"
    return f"{number(before)} -> {number(after)}"


def table(rows: Iterable[Mapping[Any, Any]], columns: Mapping[str, str]) -> str:
    """Return some columns, by their titles, of rows of numbers."""
    titles = list(columns)
    return aligned(titles, [[number(row.get(columns[one])) for one in titles] for row in rows])


def pairs(values: Mapping[str, Any]) -> str:
    """Return a line for each value, with its name before it."""
    width = max(map(len, values))
    return "\n".join(f"{name:{width}}  {number(value)}" for name, value in values.items())


def aligned(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table with right-aligned columns."""
    lines = [list(header), *map(list, rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(map(str.rjust, line, widths)).rstrip() for line in lines)


def duration(seconds: float) -> str:
    """Return a span of time in its natural unit, to two digits or so."""
    for unit, size in (("days", 86_400.0), ("h", 3_600.0), ("min", 60.0)):
        if seconds >= 2 * size:
            return f"{seconds / size:.{0 if seconds >= 10 * size else 1}f} {unit}"
    return f"{seconds:.0f} s"
