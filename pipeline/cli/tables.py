"""Numbers and tables for a terminal."""

import math
from collections.abc import Iterable, Sequence


def number(value: float | None) -> str:
    """Return a number in three digits, or "-" for an unknown one."""
    if value is None or not math.isfinite(value):
        return "-"
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def change(before: float | None, after: float | None) -> str:
    """Return two numbers with an arrow between them, or "-" where both are unknown."""
    if (number(before), number(after)) == ("-", "-"):
        return "-"
    return f"{number(before)} -> {number(after)}"


def aligned(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table with right-aligned columns."""
    lines = [list(header), *(list(row) for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def duration(seconds: float) -> str:
    """Return a span of time in its natural unit, to two digits or so."""
    for unit, size in (("days", 86_400.0), ("h", 3_600.0), ("min", 60.0)):
        if seconds >= 2 * size:
            return f"{seconds / size:.{0 if seconds >= 10 * size else 1}f} {unit}"
    return f"{seconds:.0f} s"
