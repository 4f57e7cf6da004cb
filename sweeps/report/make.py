"""`spire report`, top to bottom: load runs out of MLflow, group, compose, write, attach.

Read `make_report` first. Its sources are the tracking store and rows of other stretches.
"""

from collections.abc import Sequence
from pathlib import Path

from pipeline.config.tracking import TrackingConfig, tracking_root
from pipeline.files.paths import lasting
from pipeline.tracking.attachments import attach
from pipeline.tracking.mlflow_queries import TrackedRun, sweep_runs
from spire_core.errors import RunError
from sweeps.report.compose import Material, composed
from sweeps.report.contents import Report
from sweeps.report.facts import left_out
from sweeps.report.files import file_name, make_folder, report_files, write_files
from sweeps.report.finals import with_finals
from sweeps.report.groups import group_runs, method_of
from sweeps.report.pages import sweep_note
from sweeps.report.row_runs import FILE, whole
from sweeps.report.rows import check_replaced, write_rows
from sweeps.report.stretches import Stretches, without_overruled
from sweeps.report.study_page import check_study_page, write_study_page

NO_STRETCHES = Stretches()


def make_report(
    config: TrackingConfig,
    words: Sequence[str],
    out: Path | None = None,
    rows: Path | None = None,
    stretches: Stretches = NO_STRETCHES,
    readme: str | Path | None = None,
) -> Report:
    """Write the report of a sweep or of runs, attach it to the sweep, and return it.

    `words` as in `sweep_runs`; without any, `stretches` have all runs. `out`: the folder, else one
    in the tracking root. `rows`: a file for clients' scores; `readme`: the page that has what
    follows from them. RunError if no such run has finished; ConfigError if the folder cannot be
    written or has such files of others, the file of rows holds anything else than rows of these
    runs, or the page is not one that a report can write; ClusterError if the store does not answer.
    """
    page = check_study_page(readme, rows)
    parent, runs, finished = _loaded(config, words, stretches)
    check_replaced(rows, runs)
    name = _name(parent, words, finished[0])
    folder = make_folder(out or tracking_root(config) / "reports" / file_name(name))
    groups = group_runs([with_finals(config, run) for run in without_overruled(finished)])
    material = Material(config, parent, runs, groups, stretches)
    report = composed(material, name, folder, None if rows is None else lasting(rows, "--rows"))
    files = report_files(report)
    if report.rows:
        write_rows(config, groups, stretches, report.rows)
    paths = write_files(folder, files)
    if parent:
        attach(config, parent.run_id, folder, paths, sweep_note(report))
    if page:
        write_study_page(page, report)
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


def _name(parent: TrackedRun | None, words: Sequence[str], first: TrackedRun) -> str:
    """Return the report's name: the sweep's, a run's or, of rows alone, that of their study."""
    if parent is not None:
        return parent.name
    if words:
        return first.run_id[:8]
    path = Path(first.tags[FILE]).resolve()
    return path.parent.name if path.stem == "rows" else path.stem
