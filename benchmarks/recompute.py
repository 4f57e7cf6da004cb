"""Works out published numbers again, from each client's scores that are committed with a study.

    python -m benchmarks.recompute                 # all studies below docs/results with rows.csv
    python -m benchmarks.recompute docs/results/STUDY

A study's folder has `rows.csv` (`spire report STUDY --rows FILE`) and the report's `tables/`. Every
number of these tables that follows from the rows is worked out again. `published.csv`, if there is
one, lists what pages say (`benchmarks/published.py`). The exit code is 1 if a number differs.
"""

import csv
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean

from benchmarks.published import (
    Published,
    Row,
    agree,
    number,
    published_values,
    read_rows,
    wrong_line,
)
from pipeline.tracking.mlflow_queries import TrackedRun
from spire_core.errors import DataError
from sweeps.design.config import load_sweep, sweep_names
from sweeps.primary import primaries
from sweeps.report.controls import ADAPTED, OWN, SCORES, SHARED, controls_table
from sweeps.report.differences import (
    differences_table,
    setting_differences_table,
    within_methods_table,
)
from sweeps.report.files import csv_text
from sweeps.report.groups import best_groups, choosing_metric, group_runs
from sweeps.report.primary import findings, primary_table
from sweeps.report.rows import NEW, OLD, TAGS, TUNED
from sweeps.report.tables import Table, method_tables, settings_table

DOCS = Path(__file__).resolve().parents[1] / "docs"
OLD_METRICS = {  # final metrics of pre-training clients, by the column of the rows
    "kid": "final/pretrain_kid_mean",
    "kid_floor": "final/pretrain_kid_floor",
    "tv": "final/pretrain_tv_mean",
    "heldout_own": "final/pretrain_heldout_own",
    "heldout_zero": "final/pretrain_heldout_zero",
    "heldout_swapped": "final/pretrain_heldout_swapped",
}
TUNED_METRICS = {
    "kid": "final/pretrain_tuned_kid_mean",
    "tv": "final/pretrain_tuned_tv_mean",
    "heldout_own": "final/pretrain_tuned_heldout_own",
}
HEAD = ("run_id", "method", "seed", "clients", "client_id")

# --- rows -----------------------------------------------------------------------------------------


def runs_of(rows: Sequence[Row]) -> list[TrackedRun]:
    """Return the runs behind rows, with the final metrics that are means over their clients."""
    by_run: dict[str, list[Row]] = {}
    for row in rows:
        by_run.setdefault(row["run_id"], []).append(row)
    return [_run(run_id, own) for run_id, own in by_run.items()]


def _run(run_id: str, rows: Sequence[Row]) -> TrackedRun:
    first = rows[0]
    settings = {key: value for key, value in first.items() if "." in key}
    params = settings | {"method.name": first["method"], "seed": first["seed"]}
    finals = _old_finals([row for row in rows if row["clients"] == OLD], OLD_METRICS)
    finals |= _old_finals([row for row in rows if row["clients"] == TUNED], TUNED_METRICS)
    finals |= _new_finals([row for row in rows if row["clients"] == NEW])
    tags = {key: first[key] for key in TAGS}
    return TrackedRun(run_id, run_id[:8], "FINISHED", params, tags, finals, 0)


def _old_finals(rows: Sequence[Row], names: Mapping[str, str]) -> dict[str, float]:
    means = {name: _mean(rows, column) for column, name in names.items()}
    return {name: mean for name, mean in means.items() if mean is not None}


def _new_finals(rows: Sequence[Row]) -> dict[str, float]:
    columns = {key for row in rows for key in row if key not in HEAD and key not in TAGS}
    means = {f"final/adapt_{column}": _mean(rows, column) for column in columns}
    finals = {name: mean for name, mean in means.items() if mean is not None}
    if "final/adapt_kid_before" in finals:
        before, after = finals["final/adapt_kid_before"], finals["final/adapt_kid_after"]
        finals["final/adapt_kid_ratio"] = after / before
    return finals


def _mean(rows: Sequence[Row], column: str) -> float | None:
    """Return the mean of a column over the clients that have a number there."""
    values = [value for row in rows if (value := number(row.get(column, ""))) is not None]
    return fmean(values) if values else None


# --- tables of the report -------------------------------------------------------------------------


def tables_of(study: str, rows: Sequence[Row]) -> list[Table]:
    """Return the report's tables that follow from rows."""
    groups = group_runs(runs_of(rows))
    metric = choosing_metric(groups)
    chosen = best_groups(groups, metric)
    named = load_sweep(study).primary if study in sweep_names() else ()
    tables = [primary_table(findings(primaries(named), groups, metric)), *method_tables(chosen)]
    tables += [differences_table(groups, metric), setting_differences_table(groups, metric)]
    tables += [within_methods_table(groups, metric), settings_table(groups)]
    tables += [controls_table(chosen, control_rows(rows))]
    return [table for table in tables if table is not None]


def control_rows(rows: Sequence[Row]) -> dict[str, list[dict[str, float | str | None]]]:
    """Return each run's means over new clients of its own scores and of those of its controls."""
    by_run: dict[str, list[Row]] = {}
    for row in rows:
        if row["clients"] == NEW:
            by_run.setdefault(row["run_id"], []).append(row)
    return {run_id: _controls(own) for run_id, own in by_run.items()}


def _controls(rows: Sequence[Row]) -> list[dict[str, float | str | None]]:
    known = [name for name in (*SHARED, *OWN) if _mean(rows, f"kid_{name}") is not None]
    columns = {name: {score: f"{score}_{name}" for _, score in SCORES} for name in known}
    if columns:  # else the run has no controls
        columns[ADAPTED] = {"kid": "kid_after", "tv": "tv_after"}
    return [
        {"control": name} | {score: _mean(rows, own.get(score, score)) for _, score in SCORES}
        for name, own in columns.items()
    ]


def differing_cells(found: Table, path: Path) -> tuple[int, list[str]]:
    """Return how many numbers of a committed table agree, and where others differ.

    Columns that the rows do not have, such as seconds, are left out.
    """
    again = list(csv.DictReader(csv_text(found).splitlines()))
    stored = read_rows(path)
    if len(again) != len(stored):
        return 0, [f"{path.name}: {len(stored)} rows, {len(again)} worked out"]
    agreeing, wrong = 0, list[str]()
    for line, (theirs, ours) in enumerate(zip(stored, again, strict=True), 2):
        for column in (column for column in theirs if column in ours):
            if agree(theirs[column], ours[column]):
                agreeing += number(theirs[column]) is not None
            else:
                place = f"{path.name}, line {line}, {column}"
                wrong.append(f"{place}: {theirs[column]!r}, {ours[column]!r} worked out")
    return agreeing, wrong


# --- studies --------------------------------------------------------------------------------------


def check_study(folder: Path, docs: Path = DOCS) -> tuple[int, int, list[str]]:
    """Return how many numbers of tables and of pages agree with a study's rows, and all mistakes.

    DataError if nothing could be compared.
    """
    rows = read_rows(folder / "rows.csv")
    agreeing, wrong = 0, list[str]()
    for table in tables_of(folder.name, rows):
        path = folder / "tables" / f"{table.name}.csv"
        if path.is_file():
            num, mistakes = differing_cells(table, path)
            agreeing, wrong = agreeing + num, wrong + mistakes
    lines = list[Published]()
    if (folder / "published.csv").is_file():
        lines = [Published(**row) for row in read_rows(folder / "published.csv")]
    values = zip(lines, published_values(rows, lines), strict=True)
    mistakes = [mistake for one, value in values if (mistake := wrong_line(one, value, docs))]
    if not agreeing and not lines:
        raise DataError(f"expected tables or published numbers in {folder}, got none")
    return agreeing, len(lines) - len(mistakes), wrong + mistakes


def studies(docs: Path = DOCS) -> list[Path]:
    """Return the folders of all studies whose rows are committed."""
    return sorted(path.parent for path in docs.glob("results/*/rows.csv"))


def main(folders: Iterable[str]) -> int:
    """Check these studies, or all, and return the exit code."""
    chosen = [Path(folder) for folder in folders] or studies()
    failed = False
    for folder in chosen:
        in_tables, on_pages, wrong = check_study(folder)
        print(f"{folder.name}: {in_tables} numbers of tables and {on_pages} of pages agree")
        for mistake in wrong:
            print(f"  {mistake}")
        failed |= bool(wrong)
    return int(failed or not chosen)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
