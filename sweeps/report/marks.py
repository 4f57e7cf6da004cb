"""Which cells of a table are the best of their column."""

from sweeps.report.stats import Estimate
from sweeps.report.tables import FORGETTING_AND_COST, Cell, Table, cell_text

MARKED = ("pretraining", "new_clients", "forgetting_and_cost", "settings")  # names of tables
LOWER = {  # columns in which the lowest mean is the best
    *("KID, last round", "KID, worst client", "KID, best round", "TV", "held-out"),
    *("KID, fine-tuned", "TV, fine-tuned", "held-out, fine-tuned"),
    *("KID after", "KID after, worst client", "TV after", "held-out after"),
    *(column for column, _ in FORGETTING_AND_COST),
}
KID_COLUMNS = {column for column in LOWER if column.startswith("KID")} | {
    "own",
    "global",
    "replaced",
}


def best_cells(table: Table) -> set[tuple[int, int]]:
    """Return the places (row, column) of the lowest means of each task, where rows differ.

    Cells that read alike are equally good. Whether the lowest can be told from the others is
    another question, which differences on the same seeds answer. With captions KID marks nothing.
    """
    if table.name not in MARKED:
        return set()
    tasks = table.columns.index("task") if "task" in table.columns else None
    rows_of: dict[Cell, list[int]] = {}
    for place, row in enumerate(table.rows):
        rows_of.setdefault(None if tasks is None else row[tasks], []).append(place)
    columns = [i for i, column in enumerate(table.columns) if column in LOWER]
    return {
        (row, column)
        for rows in rows_of.values()
        for column in columns
        for row in _best_rows(
            {
                row: table.rows[row][column]
                for row in rows
                if row not in table.with_text or table.columns[column] not in KID_COLUMNS
            }
        )
    }


def _best_rows(cells: dict[int, Cell]) -> list[int]:
    """Return the rows with the lowest mean, or with one that reads alike; none if all do.

    Out of those with the most seeds: a mean over fewer may be of easier ones.
    """
    known = {row: cell for row, cell in cells.items() if isinstance(cell, Estimate)}
    most = max((cell.num for cell in known.values()), default=0)
    known = {row: cell for row, cell in known.items() if cell.num == most}
    if len(known) < 2:
        return []
    lowest = cell_text(min(known.values(), key=lambda cell: cell.mean))
    best = [row for row, cell in known.items() if cell_text(cell) == lowest]
    return best if len(best) < len(known) else []
