"""A study's page, the README.md beside its rows: the part that a report writes, between two marks.

That part follows from the rows and the primary comparisons alone, so that whoever has the rows can
write it again. What stands above and below it is its author's.
"""

import csv
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pipeline.files.atomic import replace_file
from pipeline.files.paths import lasting
from pipeline.tracking.mlflow_queries import TrackedRun
from spire_core.config.checks import require
from spire_core.errors import ConfigError
from sweeps.report.contents import Report
from sweeps.report.controls import controls_table
from sweeps.report.facts import facts_of, notes_of
from sweeps.report.groups import best_groups, choosing_metric, group_runs, method_of, seed_of
from sweeps.report.pages import markdown_table, plain
from sweeps.report.prompts import prompts_table
from sweeps.report.row_runs import Row, control_rows, rows_by_run, run_of
from sweeps.report.tables import Table, made_table, method_tables

OPTION = "--readme"
BEGINS, ENDS = "<!-- spire report writes from here on -->", "<!-- spire report wrote up to here -->"
SHOWN = ("primary", "pretraining", "new_clients", "prompts", "controls", "forgetting_and_cost")
HEAD = """## What the rows say
Written by `spire report` out of [rows](rows.csv) of single clients; docs/report.md explains the
columns."""


def check_study_page(path: str | Path | None, rows: Path | None) -> Path | None:
    """Return the absolute path of a page that can be written; ConfigError if it cannot be."""
    if path is None:
        return None
    require(
        rows is not None, f"--rows FILE with {OPTION}", "none", "a study's page is made of rows"
    )
    place = lasting(path, OPTION)
    if place.exists():
        with_section(_text(place), "", place)
    return place


def write_study_page(path: Path, report: Report) -> None:
    """Write the part of a study's page that follows from a report's rows; make the page if new."""
    assert report.rows is not None  # they were asked for
    with report.rows.open(newline="", encoding="utf-8") as file:
        section = study_section(list(csv.DictReader(file)), report.table("primary"))
    text = _text(path) if path.exists() else _new_page(report)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, with_section(text, section, path).encode(), is_lasting=True)
    except OSError as error:
        raise _unwritten(path, error) from error


def study_section(rows: Sequence[Row], primary: Table | None) -> str:
    """Return the part of a study's page that follows from its rows, without its marks."""
    by_run = rows_by_run(rows)
    runs = [run_of(own) for own in by_run.values()]
    groups = group_runs(runs)
    metric = choosing_metric(groups)
    chosen = best_groups(groups, metric)
    controls = {run_id: control_rows(own) for run_id, own in by_run.items()}
    tables = [primary, *method_tables(chosen), prompts_table(chosen)]
    tables.append(controls_table(chosen, controls))
    by_name = {table.name: table for table in tables if table is not None}
    notes = [f"- {plain(note)}" for note in notes_of(groups, chosen, metric)]
    lines = [HEAD, "", *_facts(runs), "", *notes, ""]
    for name in SHOWN:
        if name in by_name:
            lines += markdown_table(replace(by_name[name], caption=""), level=3)
    return "\n".join([*lines, *markdown_table(_commits(runs), level=3)]).rstrip()


def with_section(text: str, section: str, page: Path) -> str:
    """Return a page's text with this section between its marks, which are put at the end if new.

    ConfigError if it does not have each mark once, in order.
    """
    marks = text.count(BEGINS), text.count(ENDS)
    if marks == (0, 0):
        return f"{text.rstrip()}\n\n{BEGINS}\n{section}\n{ENDS}\n"
    is_whole = marks == (1, 1) and text.index(BEGINS) < text.index(ENDS)
    got = f"{page} with {marks[0]} and {marks[1]} of them"
    advice = "mend them by hand, or remove both"
    require(is_whole, f"both marks of a report's part, once and in order, in {OPTION}", got, advice)
    before, after = text[: text.index(BEGINS)], text[text.index(ENDS) :]
    return f"{before}{BEGINS}\n{section}\n{after}"


def section_of(text: str) -> str | None:
    """Return what stands between a page's marks; None without them."""
    if BEGINS not in text or ENDS not in text:
        return None
    return text.split(BEGINS, 1)[1].split(ENDS, 1)[0].strip()


def _new_page(report: Report) -> str:
    return "\n\n".join(filter(None, (f"# {plain(report.name)}", plain(report.origin.question))))


def _facts(runs: Sequence[TrackedRun]) -> list[str]:
    facts = facts_of(runs, runs)
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
    columns = ("commit", "methods", "seeds", "runs")
    table = made_table("commits", "Commits", "", columns, rows)
    assert table is not None  # there are runs
    return table


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
