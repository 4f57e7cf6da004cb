"""`spire report`, top to bottom: load runs out of MLflow, group, compose, write, attach.

Read `make_report` first.
"""

from collections.abc import Sequence
from pathlib import Path

from pipeline.config.tracking import TrackingConfig, tracking_root
from pipeline.tracking.mlflow_queries import TrackedRun, attach, sweep_runs
from spire_core.errors import RunError
from sweeps.report.compose import Material, composed
from sweeps.report.contents import Report
from sweeps.report.facts import left_out
from sweeps.report.files import file_name, make_folder, report_files, write_files
from sweeps.report.finals import with_finals
from sweeps.report.groups import group_runs, method_of, whole
from sweeps.report.pages import sweep_note
from sweeps.report.tables import ID_CHARS


def make_report(config: TrackingConfig, words: Sequence[str], out: Path | None = None) -> Report:
    """Write the report of a sweep or of runs, attach it to the sweep, and return it.

    `words` as in `sweep_runs`. `out`: the folder, else one in the tracking root. RunError if no
    such run has finished; ConfigError if the folder cannot be written or has such files of others;
    ClusterError if the store does not answer.
    """
    parent, runs, finished = _loaded(config, words)
    name = parent.name if parent is not None else finished[0].run_id[:ID_CHARS]
    folder = make_folder(out or tracking_root(config) / "reports" / file_name(name))
    groups = group_runs([with_finals(config, run) for run in finished])
    report = composed(Material(config, parent, runs, groups), name, folder)
    paths = write_files(folder, report_files(report))
    if parent:
        attach(config, parent.run_id, folder, paths, sweep_note(report))
    return report


def _loaded(
    config: TrackingConfig, words: Sequence[str]
) -> tuple[TrackedRun | None, list[TrackedRun], list[TrackedRun]]:
    """Return a sweep's own run, all runs, and those that are finished experiments.

    RunError if none is.
    """
    parent, runs = sweep_runs(config, words)
    finished = [whole(run) for run in runs if run.status == "FINISHED" and method_of(run)]
    if not finished:
        raise RunError(
            f"expected a finished experiment in {' '.join(words)!r}, got "
            f"{left_out(runs, []) or 'no run'}: wait for one, or name another sweep"
        )
    return parent, runs, finished
