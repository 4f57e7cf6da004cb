"""Numbers and tables for a terminal."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pipeline.config.load import flattened

WIDEST = 200  # characters of a table's line, beyond which each of its rows is a block of lines


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


def listing(values: Mapping[str, Any]) -> str:
    """Return nested values for reading: records, lists of texts, then the others."""
    parts, others = list[str](), dict[str, Any]()
    for key, value in flattened(values).items():
        if isinstance(value, list) and value and isinstance(value[0], Mapping):
            text = table(value)
            if text.index("\n") > WIDEST:
                text = "\n\n".join(pairs(flattened(row)) for row in value)
            parts.append(f"{key}\n{text}")
        elif isinstance(value, list) and value and isinstance(value[0], str):
            parts.append("\n- ".join([key, *value]))
        else:
            others[key] = value
    return "\n\n".join([*parts, pairs(others)])


def table(rows: Iterable[Mapping[Any, Any]], columns: Mapping[str, str] | None = None) -> str:
    """Return rows of numbers as text.

    `columns` are those shown, by their titles. By default they are all that have a value.
    """
    flat = [flattened(row) for row in rows]
    shown = columns or {key: key for row in flat for key, value in row.items() if value is not None}
    return aligned([*shown], [[number(row.get(key)) for key in shown.values()] for row in flat])


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
