"""Works out published numbers again, from each client's scores that are committed with a study.

    python -m benchmarks.recompute                 # all studies below docs/results with rows.csv
    python -m benchmarks.recompute docs/results/STUDY

A study's folder has `rows.csv` (`spire report STUDY --rows FILE`) and the report's `tables/`. Every
number of these tables that follows from the rows is worked out again, and so is the part of its
`README.md` that a report writes. `published.csv`, if there is one, lists what pages say
(`benchmarks/published.py`); it has to list every number with decimals on the pages of `COMPLETE`.
The exit code is 1 if a number differs, or one of these has no rows.
"""

import csv
import sys
from collections.abc import Iterable, Sequence
from itertools import zip_longest
from pathlib import Path

from benchmarks.ended import ended
from benchmarks.published import TOLERANCE, Published, agree, read_rows, study_rows
from benchmarks.published_values import Families, published_values
from benchmarks.quotes import is_in, unlisted
from spire_core.errors import DataError
from sweeps.design.load import load_sweep, sweep_names
from sweeps.report.choice import best_groups, choosing_metric
from sweeps.report.client_coverage import ClientLine, client_coverage_table, client_lines
from sweeps.report.controls import controls_table
from sweeps.report.coverage import coverage_table
from sweeps.report.differences import (
    differences_table,
    setting_differences_table,
    within_methods_table,
)
from sweeps.report.files import ESTIMATED, csv_text
from sweeps.report.groups import Group, as_number, group_runs
from sweeps.report.planes import plane_table
from sweeps.report.primary import Finding, primary_table
from sweeps.report.prompts import prompts_table
from sweeps.report.recorded import plan_of, planned_findings
from sweeps.report.row_runs import (
    AUDIT_METRICS,
    Row,
    client_numbers,
    control_rows,
    rows_by_run,
    run_of,
)
from sweeps.report.stats import equivalence_p
from sweeps.report.study_page import section_of, with_section
from sweeps.report.tables import PRIVACY, Table, method_tables, privacy_table, settings_table

DOCS = Path(__file__).resolve().parents[1] / "docs"
COMPLETE = ("results.md",)  # all of their numbers follow from rows
# Tables of curves and of what a store alone knows.
NO_ROWS = ("epochs", "prompt_epochs", "runs", "parameters")
BEST_KID = "KID, best round"
STORE_ALONE = {  # columns that rows may lack, by table
    "pretraining": (BEST_KID, "best round", "epsilon", "delta"),
    "settings": (BEST_KID,),
    "forgetting_and_cost": (
        "kB up per client and round",
        "MB sent in total",
        "seconds per round",
    ),
    "privacy": tuple(title for title, key in PRIVACY if key not in AUDIT_METRICS.values()),
}
TESTS = ("p", "Holm", "equivalence", "NN p")  # columns of numbers that may be tiny, and say much

# --- tables of the report -------------------------------------------------------------------------


def tables_of(
    rows: Sequence[Row], groups: Sequence[Group], found: Sequence[Finding]
) -> list[Table]:
    """Return the report's tables that follow from rows, of their groups and what was found."""
    metric = choosing_metric(groups)
    chosen = best_groups(groups, metric)
    tables = [primary_table(found), *method_tables(chosen)]
    tables.append(differences_table(groups, metric))
    tables.append(plane_table(groups, metric) or setting_differences_table(groups, metric))
    controls = {run_id: control_rows(own) for run_id, own in rows_by_run(rows).items()}
    tables += [within_methods_table(groups, metric), settings_table(groups)]
    tables += [controls_table(chosen, controls), coverage_table(chosen), privacy_table(chosen)]
    tables += [prompts_table(chosen), client_coverage_table(lines_of(groups, rows))]
    return [table for table in tables if table is not None]


def differing_cells(found: Table, path: Path) -> tuple[int, list[str]]:
    """Return how many numbers of a committed table agree, and where others differ.

    Columns of `STORE_ALONE` are left out.
    """
    again = list(csv.DictReader(csv_text(found).splitlines()))
    stored = read_rows(path)
    if len(again) != len(stored):
        return 0, [f"{path.name}: {len(stored)} rows, {len(again)} worked out"]
    known = [f"{one}{end}" for one in STORE_ALONE.get(path.stem, ()) for end in ESTIMATED]
    gone = [column for column in stored[0] if column not in again[0] and column not in known]
    wrong = [f"{path.name}: the rows make no column {column!r}" for column in gone]
    lacking = [column for column in again[0] if column not in stored[0]]
    wrong += [f"{path.name}: no column {column!r}, which the rows make" for column in lacking]
    agreeing = 0
    for line, (theirs, ours) in enumerate(zip(stored, again, strict=True), 2):
        for column in (column for column in theirs if column in ours):
            abs_tol = 0.0 if column in TESTS else TOLERANCE
            if agree(theirs[column], ours[column], abs_tol):
                agreeing += as_number(theirs[column]) is not None
            else:
                place = f"{path.name}, line {line}, {column}"
                wrong.append(f"{place}: {theirs[column]!r}, {ours[column]!r} worked out")
    return agreeing, wrong


# --- studies --------------------------------------------------------------------------------------


def wrong_line(one: Published, value: float, docs: Path) -> str | None:
    """Return what is wrong with a line; None if the page has the number, and it is right."""
    page = docs / one.page
    text = " ".join(page.read_text(encoding="utf-8").split()) if page.is_file() else ""
    if " ".join(one.quote.split()) not in text:
        return f"{one.page} does not have {one.quote!r}"
    if not is_in(one.printed, one.quote):
        return f"{one.quote!r} does not have {one.printed}"
    if one.rounded(value) != one.printed:
        what = f"{one.statistic} of {one.measure}, {one.method}"
        return f"{one.page} says {one.printed} in {one.quote!r}, and {what} is {value:.6g}"
    return None


def check_study(folder: Path, docs: Path = DOCS) -> tuple[int, int, list[str]]:
    """Return how many numbers of tables and of pages agree with a study's rows, and all mistakes.

    DataError if nothing could be compared.
    """
    rows = study_rows(folder)
    groups = groups_of(rows)
    found = findings_of(folder.name, groups)
    agreeing, wrong = 0, list[str]()
    tables = {table.name: table for table in tables_of(rows, groups, found)}
    unknown = NO_ROWS if folder.name in sweep_names() else (*NO_ROWS, "primary")
    for path in sorted((folder / "tables").glob("*.csv")):
        if path.stem in tables:
            num, mistakes = differing_cells(tables[path.stem], path)
            agreeing, wrong = agreeing + num, wrong + mistakes
        elif path.stem not in unknown:
            wrong.append(f"{path.name}: the rows make no such table")
    lines = list[Published]()
    if (folder / "published.csv").is_file():
        lines = [Published(**row) for row in read_rows(folder / "published.csv")]
    wrong += stale_part(folder / "README.md", rows, tables.get("primary"))
    values = zip(lines, published_values(rows, lines, families_of(found)), strict=True)
    mistakes = [mistake for one, value in values if (mistake := wrong_line(one, value, docs))]
    if not agreeing and not lines:
        raise DataError(f"expected tables or published numbers in {folder}, got none")
    return agreeing, len(lines) - len(mistakes), wrong + mistakes


def stale_part(page: Path, rows: Sequence[Row], primary: Table | None) -> list[str]:
    """Return where the part of a study's page that a report writes is not what its rows give."""
    if not page.is_file():
        return []
    stored = page.read_text(encoding="utf-8")
    if section_of(stored) is None:
        return [f"{page.name}: no part that follows from its rows: spire report --readme"]
    ours = with_section(stored, rows, primary, page)
    lines = zip_longest(stored.splitlines(), ours.splitlines(), fillvalue="")
    changed = [f"{page.name}: {a!r}, {b!r} worked out" for a, b in lines if a != b]
    return changed[:1]


def without_rows(page: str, docs: Path = DOCS) -> list[str]:
    """Return the numbers of a page, below docs/, that no study's rows bear out."""
    files = [file for folder in studies(docs) if (file := folder / "published.csv").is_file()]
    lines = [Published(**row) for file in files for row in read_rows(file) if row["page"] == page]
    return unlisted((docs / page).read_text(encoding="utf-8"), lines)


def groups_of(rows: Sequence[Row]) -> list[Group]:
    """Return the runs of rows by task, method and setting."""
    return group_runs([run_of(own) for own in rows_by_run(rows).values()])


def lines_of(groups: Sequence[Group], rows: Sequence[Row]) -> list[ClientLine]:
    """Return the models of single new clients' leads over their coverage."""
    chosen = best_groups(groups, choosing_metric(groups))
    clients = {run_id: client_numbers(own) for run_id, own in rows_by_run(rows).items()}
    return client_lines(chosen, clients)


def families_of(found: Sequence[Finding]) -> Families:
    """Return the p-values of primary comparisons by family, None for one that lacks runs."""
    families: dict[str, dict[bool, list[float | None]]] = {}
    for one in found:
        own = families.setdefault(one.primary.family, {False: [], True: []})
        own[False].append(one.p)
        own[True].append(one.effect and equivalence_p(one.effect, one.primary.limit))
    return families


def findings_of(study: str, groups: Sequence[Group]) -> list[Finding]:
    """Return the primary comparisons of the runs that a study's built-in file plans; else none."""
    if study not in sweep_names():
        return []
    found, _ = planned_findings(plan_of(load_sweep(study)), groups)
    return found


def studies(docs: Path = DOCS) -> list[Path]:
    """Return the folders of all studies whose rows are committed."""
    return sorted(path.parent for path in docs.glob("results/*/rows.csv"))


def main(folders: Iterable[str]) -> int:
    """Check these studies, or all of them and whole pages, and return the exit code."""
    folders = [*folders]
    chosen = [Path(folder) for folder in folders] or studies()
    failed = False
    for folder in chosen:
        in_tables, on_pages, wrong = check_study(folder)
        print(f"{folder.name}: {in_tables} numbers of tables and {on_pages} of pages agree")
        for mistake in wrong:
            print(f"  {mistake}")
        failed |= bool(wrong)
    for page in () if folders or failed else COMPLETE:
        alone = without_rows(page)
        print(f"{page}: {len(alone)} numbers have no rows{': ' * bool(alone)}{', '.join(alone)}")
        failed |= bool(alone)
    return int(failed or not chosen)


if __name__ == "__main__":
    sys.exit(ended(lambda: main(sys.argv[1:])))
