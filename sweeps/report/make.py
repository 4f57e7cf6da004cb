"""`spire report`, top to bottom: load runs out of MLflow, group, tabulate, draw, write, attach.

Read `make_report` first. Its sources are the tracking store and rows of other stretches.
"""

from collections.abc import Sequence
from pathlib import Path

from pipeline.config.build import build
from pipeline.config.safe_yaml import read_plain
from pipeline.config.tracking import TrackingConfig, tracking_root
from pipeline.files.paths import lasting
from pipeline.tracking.attachments import attach
from pipeline.tracking.mlflow_queries import TrackedRun, sweep_runs
from spire_core.errors import ConfigError, RunError
from sweeps.design.config import SweepConfig
from sweeps.design.planned import planned_runs
from sweeps.primary import Primary, primaries
from sweeps.report.answers import answers_of
from sweeps.report.budgets import budget_pictures
from sweeps.report.client_coverage import (
    client_coverage_answers,
    client_coverage_table,
    client_lines,
)
from sweeps.report.client_dots import client_pictures
from sweeps.report.clients import Curves, clients_of, controls_of, curves_of
from sweeps.report.contents import Origin, Report
from sweeps.report.controls import Rows, controls_table
from sweeps.report.coverage import coverage_answers, coverage_table
from sweeps.report.coverage_dots import coverage_pictures
from sweeps.report.differences import (
    differences_table,
    setting_differences_table,
    within_methods_table,
)
from sweeps.report.epochs import epochs_table, rate_pictures
from sweeps.report.facts import facts_of, left_out, notes_of, rows_notes
from sweeps.report.figures import Picture, draw_all
from sweeps.report.files import file_name, make_folder, report_files, write_files
from sweeps.report.finals import is_read, with_finals
from sweeps.report.forest import primary_pictures
from sweeps.report.groups import Group, best_groups, choosing_metric, group_runs, method_of
from sweeps.report.origins import SWEEP_FILE, origin_of, parameters_table
from sweeps.report.pages import sweep_note
from sweeps.report.planes import plane_picture, plane_table
from sweeps.report.primary import Finding, findings, primary_answers, primary_table
from sweeps.report.prompts import prompt_epochs_table, prompts_table
from sweeps.report.row_runs import FILE, whole
from sweeps.report.rows import check_replaced, write_rows
from sweeps.report.runs import runs_table
from sweeps.report.samples import partition_pictures, sample_pictures
from sweeps.report.stretches import Stretches, without_overruled
from sweeps.report.tables import Table, method_tables, privacy_table, settings_table
from sweeps.report.words import words_of

NO_STRETCHES = Stretches()


def make_report(
    config: TrackingConfig,
    words: Sequence[str],
    out: Path | None = None,
    rows: Path | None = None,
    stretches: Stretches = NO_STRETCHES,
) -> Report:
    """Write the report of a sweep or of runs, attach it to the sweep, and return it.

    `words` as in `sweep_runs`; without any, `stretches` have all runs. `out`: the folder, else one
    in the tracking root. `rows`: a file for clients' scores. RunError if no such run has finished;
    ConfigError if the folder cannot be written or has such files of others, or the file of rows
    holds anything else than rows of these runs; ClusterError if the store does not answer.
    """
    # 1. Load.
    parent, runs, finished = _loaded(config, words, stretches)
    check_replaced(rows, runs)
    name = _name(parent, words, finished[0])
    folder = make_folder(out or tracking_root(config) / "reports" / file_name(name))
    # 2. Group, and read the curves.
    groups = group_runs([with_finals(config, run) for run in without_overruled(finished)])
    metric = choosing_metric(groups)
    chosen = best_groups(groups, metric)
    used = [run for group in groups for run in group.runs]
    origin = origin_of(config, parent, used)
    found, unplanned = _findings(origin, groups, metric)
    curves, clients = curves_of(config, groups, chosen), clients_of(config, chosen, stretches)
    # 3. Tables and figures.
    controls, lines = controls_of(config, chosen, stretches), client_lines(chosen, clients)
    coverages = [coverage_table(chosen), client_coverage_table(lines)]
    of_coverage = coverage_answers(coverages[0], chosen) + client_coverage_answers(lines)
    tables = _tables(groups, chosen, curves, coverages, controls)
    tables = [primary_table(found), *tables, runs_table(runs), parameters_table(groups)]
    of_clients = client_pictures(chosen, clients) + coverage_pictures(lines)
    pictures = [*primary_pictures(found), *_pictures(groups, metric, curves, of_clients)]
    # 4. Write and attach.
    report = Report(
        name,
        folder,
        parent.run_id if parent else None,
        [*primary_answers(found), *of_coverage, *answers_of(chosen, metric)],
        facts_of(runs, used),
        notes_of(groups, chosen, metric) + unplanned + rows_notes(runs, parent is not None),
        [table for table in tables if table is not None],
        pictures,
        sample_pictures(config, _tracked(chosen), clients),
        partition_pictures(config, _tracked(chosen)),
        origin,
        words_of(chosen),
        None if rows is None else lasting(rows, "--rows"),
    )
    files = report_files(report)
    if report.rows:
        write_rows(config, groups, stretches, report.rows)
    paths = write_files(folder, files)
    if parent:
        attach(config, parent.run_id, folder, paths, sweep_note(report))
    return report


def _loaded(
    config: TrackingConfig, words: Sequence[str], stretches: Stretches
) -> tuple[TrackedRun | None, list[TrackedRun], list[TrackedRun]]:
    """Return a sweep's own run, all runs, and those that are finished experiments.

    RunError if none is.
    """
    parent, runs = sweep_runs(config, words) if words else (None, [])
    runs += stretches.not_in(runs)
    finished = [whole(run) for run in runs if run.status == "FINISHED" and method_of(run)]
    if not finished:
        raise RunError(
            f"expected a finished experiment in {' '.join(words)!r}, got "
            f"{left_out(runs, []) or 'no run'}: wait for one, or name another sweep"
        )
    return parent, runs, finished


def _tables(
    groups: Sequence[Group],
    chosen: Sequence[Group],
    curves: Curves,
    coverages: Sequence[Table | None],
    controls: Rows,
) -> list[Table | None]:
    """Return the tables of methods and of settings."""
    metric = choosing_metric(groups)
    plane = plane_table(groups, metric)
    return [
        *method_tables(chosen),
        prompts_table(chosen),
        differences_table(groups, metric),
        *coverages,
        plane or setting_differences_table(groups, metric),
        within_methods_table(groups, metric),
        controls_table(chosen, controls),
        epochs_table(groups, curves),
        prompt_epochs_table(chosen, curves),
        privacy_table(chosen),
        settings_table(groups) if len(groups) > len(chosen) else None,
    ]


def _pictures(
    groups: Sequence[Group], metric: str, curves: Curves, of_clients: Sequence[Picture]
) -> list[Picture]:
    """Return the figures of budgets, then those of clients, then of curves, costs and settings."""
    pictures = draw_all(groups, metric, curves) + rate_pictures(groups, curves)
    shown = [*filter(None, (*pictures, plane_picture(groups, metric)))]
    return [*budget_pictures(groups, metric), *of_clients, *shown]


def _name(parent: TrackedRun | None, words: Sequence[str], first: TrackedRun) -> str:
    """Return the report's name: the sweep's, a run's or, of rows alone, that of their study."""
    if parent is not None:
        return parent.name
    if words:
        return first.run_id[:8]
    path = Path(first.tags[FILE]).resolve()
    return path.parent.name if path.stem == "rows" else path.stem


def _findings(
    origin: Origin, groups: Sequence[Group], metric: str
) -> tuple[list[Finding], list[str]]:
    """Return the primary comparisons that a sweep's run recorded when it began, and notes."""
    text = origin.sweep_file
    sweep = read_plain(text, SWEEP_FILE) if text else {}
    compared, planned, notes = list[Primary](), [], []
    try:
        compared = primaries(sweep.get("primary", ()))
        planned = planned_runs(build(SweepConfig, sweep), compared) if compared else []
    except ConfigError as error:  # of an earlier version, or with plugins that are not here
        what = "corrected for tasks that have not run" if compared else "among these tables"
        notes = [f"Primary comparisons are not {what}: {error}."]
    num_seeds = len(sweep.get("seeds", ()))
    return findings(compared, groups, metric, planned, num_seeds), notes


def _tracked(groups: Sequence[Group]) -> list[Group]:
    """Return the groups whose first run is in the store, with what it drew."""
    return [group for group in groups if not is_read(group.runs[0])]
