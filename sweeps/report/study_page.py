"""A study's page, the README.md beside its rows: the part that a report writes, between two marks.

That part follows from the rows and the sweep's primary comparisons, so that whoever has both can
write it again. What stands above and below it is its author's, and the first mark may name the
tables that it takes: <!-- spire report writes from here on: primary, new_clients -->
"""

import csv
import os
import re
from collections.abc import Sequence
from pathlib import Path

from pipeline.files.atomic import replace_file
from pipeline.files.paths import lasting
from pipeline.tracking.mlflow_queries import TrackedRun
from spire_core.config.checks import require
from spire_core.errors import ConfigError
from sweeps.report.contents import MARKDOWN, Report
from sweeps.report.controls import controls_table
from sweeps.report.facts import facts_of
from sweeps.report.groups import group_runs, method_of, seed_of
from sweeps.report.pages import markdown_table, plain
from sweeps.report.prompts import prompts_table
from sweeps.report.row_runs import STARTED, Row, control_rows, rows_by_run, run_of
from sweeps.report.tables import Table, method_tables

OPTION = "--readme"
SHOWN = ("primary", "pretraining", "new_clients", "prompts", "controls", "forgetting_and_cost")
BEGINS = re.compile(r"<!-- spire report writes from here on(?:: ([\w, ]+))? -->")
ENDS = "<!-- spire report wrote up to here -->"
NEW = "<!-- spire report writes from here on -->"
OF_RUNS = ("Runs", "Code")  # facts that the table of commits has
TITLE, COMPARISONS = "## What the rows say", "### Primary comparisons"


def check_study_page(path: str | Path | None, rows: Path | None) -> Path | None:
    """Return the absolute path of a page that can be written; ConfigError if it cannot be."""
    if path is None:
        return None
    require(
        rows is not None, f"--rows FILE with {OPTION}", "none", "a study's page is made of rows"
    )
    place = lasting(path, OPTION)
    is_page = place.suffix == ".md" and place.name != MARKDOWN
    advice = f"name one, but not {MARKDOWN}, which is the report's own"
    require(is_page, f"a page such as README.md in {OPTION}", path, advice)
    if place.exists():
        _parts(_text(place), place)
    return place


def write_study_page(path: Path, report: Report) -> None:
    """Write the part of a study's page that follows from a report's rows; make the page if new.

    ConfigError if the page has primary comparisons that the report lacks, or cannot be written.
    """
    assert report.rows is not None  # they were asked for
    with report.rows.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    text, primary = _text(path) if path.exists() else _new_page(report), report.table("primary")
    is_known = primary is not None or COMPARISONS not in (section_of(text) or "")
    advice = "name the sweep beside --rows-from"
    require(is_known, f"the primary comparisons of {path}", "a report of rows alone", advice)
    written = with_section(text, rows, primary, path, os.path.relpath(report.rows, path.parent))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, written.encode(), is_lasting=True)
    except OSError as error:
        raise _unwritten(path, error) from error


def with_section(
    text: str, rows: Sequence[Row], primary: Table | None, page: Path, link: str = "rows.csv"
) -> str:
    """Return a page's text with what these rows say between its marks; new ones go to its end.

    `link`: the file of rows, as seen from the page. ConfigError if the page has not each mark once
    and in order, or names a table that there is not.
    """
    before, mark, names, after = _parts(text, page)
    section = study_section(rows, primary, names, link)
    return f"{before}{mark}\n{section}\n{ENDS}{after}"


def section_of(text: str) -> str | None:
    """Return what stands between a page's marks; None without them."""
    begin, end = BEGINS.search(text), text.find(ENDS)
    return text[begin.end() : end].strip() if begin and end > begin.end() else None


def study_section(
    rows: Sequence[Row], primary: Table | None, names: Sequence[str] = SHOWN, link: str = "rows.csv"
) -> str:
    """Return what rows say: settings, tables by these names over all settings, and commits."""
    by_run = rows_by_run(rows)
    runs = [run_of(own) for own in by_run.values()]
    groups = group_runs(runs)
    controls = {run_id: control_rows(own) for run_id, own in by_run.items()}
    tables = [primary, *method_tables(groups), prompts_table(groups)]
    tables.append(controls_table(groups, controls))
    lines = [
        f"{TITLE}\nWritten by `spire report` out of [rows]({link}) of single clients: mean ± half"
    ]
    lines += ["of a 95 % interval over n seeds, a row for each setting that ran.", ""]
    lines += [*_facts(runs), ""] if STARTED in rows[0] else []  # older rows lack settings
    shown = {table.name: table for table in tables if table is not None}
    for name in (name for name in names if name in shown):
        lines += markdown_table(shown[name], level=3)
    return "\n".join([*lines, *markdown_table(_commits(runs), level=3)]).rstrip()


def _parts(text: str, page: Path) -> tuple[str, str, Sequence[str], str]:
    """Return what stands above a page's first mark, that mark, its tables, and what is below."""
    begins, num_ends = [*BEGINS.finditer(text)], text.count(ENDS)
    if not begins and not num_ends:
        return f"{text.rstrip()}\n\n", NEW, SHOWN, "\n"
    is_whole = len(begins) == num_ends == 1 and begins[0].end() <= text.index(ENDS)
    got = f"{page} with {len(begins)} and {num_ends} of them"
    advice = "mend them by hand, or remove both"
    require(is_whole, f"both marks of a report's part, once and in order, in {OPTION}", got, advice)
    [begin] = begins
    names = _tables_named(begin.group(1), page)
    return text[: begin.start()], begin.group(), names, text[text.index(ENDS) + len(ENDS) :]


def _tables_named(text: str | None, page: Path) -> Sequence[str]:
    """Return the tables that a page's first mark names, all of them if it names none."""
    if text is None:
        return SHOWN
    names = [name.strip() for name in text.split(",")]
    strange = [name for name in names if name not in SHOWN]
    known = f"tables out of {', '.join(SHOWN)} in the mark of {page}"
    require(not strange, known, ", ".join(strange), "correct the mark")
    return names


def _new_page(report: Report) -> str:
    return "\n\n".join(filter(None, (f"# {plain(report.name)}", plain(report.origin.question))))


def _facts(runs: Sequence[TrackedRun]) -> list[str]:
    facts = {key: value for key, value in facts_of(runs, runs).items() if key not in OF_RUNS}
    return [f"- **{plain(key)}**: {plain(value)}" for key, value in facts.items()]


def _commits(runs: Sequence[TrackedRun]) -> Table:
    """Return which commit ran which methods on which seeds."""
    by_commit: dict[str, list[TrackedRun]] = {}
    for run in runs:
        by_commit.setdefault(run.tags.get("git_revision", "unknown"), []).append(run)
    rows = []
    for commit, own in by_commit.items():
        seeds = ", ".join(map(str, sorted({seed_of(run) for run in own})))
        methods = ", ".join(dict.fromkeys(str(method_of(run)) for run in own))
        rows.append((commit, methods, seeds, len(own)))
    return Table("commits", "Commits", "", ("commit", "methods", "seeds", "runs"), tuple(rows))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise _unwritten(path, error) from error


def _unwritten(path: Path, error: Exception) -> ConfigError:
    return ConfigError(
        f"expected a Markdown file that can be written in {OPTION}, got {path} ({error}): name "
        "another"
    )
