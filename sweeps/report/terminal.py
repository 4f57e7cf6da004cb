"""A report for a terminal: methods, differences against SPIRE, notes, and where the page is."""

from collections.abc import Sequence

from pipeline.cli.command import one_line
from pipeline.cli.tables import aligned
from sweeps.report.contents import Report
from sweeps.report.tables import cell_text

MINUS = "minus SPIRE on the same seeds (below 0 is better, but for NN, prompts read, retrieved)"
TERMINAL = ("KID, last round", "KID before", "KID after", "TV after", "held-out after")


def report_text(report: Report) -> str:
    """Return the report for a terminal: methods, differences against SPIRE, the page's path.

    Names may come from strangers; each is shown on one line without control characters.
    """
    parts = [one_line(f"{report.name}: {report.facts['Runs']}")]
    parts.append(_methods_text(report))
    differences = report.table("differences")
    if differences is not None:
        parts.append(MINUS)
        rows = [[cell_text(cell) for cell in row] for row in differences.rows]
        parts.append(_aligned(differences.columns, rows))
    parts.append("\n".join(f"note      {one_line(note)}" for note in report.notes))
    attached = f", attached to run {report.parent_id[:8]}" if report.parent_id else ""
    return "\n\n".join([*parts, f"page      {report.html}{attached}"])


def _methods_text(report: Report) -> str:
    """Return the methods' main columns, which stand in two of the tables, side by side."""
    merged: dict[tuple[str, ...], dict[str, str]] = {}
    columns: list[str] = []
    for name in ("pretraining", "new_clients"):
        table = report.table(name)
        if table is None:
            continue
        place = table.columns.index("n") + 1
        wanted = [c for c in table.columns[place:] if c in TERMINAL]
        columns = columns or list(table.columns[:place])
        columns += [c for c in wanted if c not in columns]
        for row in table.rows:
            texts = dict(zip(table.columns, map(cell_text, row), strict=True))
            merged.setdefault(tuple(texts[c] for c in table.columns[:place]), {}).update(texts)
    return _aligned(
        columns, [[texts.get(column, "-") for column in columns] for texts in merged.values()]
    )


def _aligned(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return aligned([*map(one_line, columns)], [[*map(one_line, row)] for row in rows])
