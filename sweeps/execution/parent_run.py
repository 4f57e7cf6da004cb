"""A sweep's own tracking run: begun once, opened by every command, ended by the last of them."""

import contextlib
import dataclasses
import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from pipeline.config.tracking import TrackingConfig, tracking_uri
from pipeline.runs.layout import RECORD
from pipeline.runs.record import make_run_dir, make_runs_folder
from pipeline.tracking.mlflow_queries import NOTE, adopt, shortened
from pipeline.tracking.tracker import Status, Tracker, has_ended, is_deleted
from spire_core.errors import SpireError
from sweeps.design.config import SweepConfig
from sweeps.execution.ended import end_trials
from sweeps.execution.ledger import Ledger
from sweeps.execution.progress import Progress, read_progress

_log = logging.getLogger(__name__)


@contextlib.contextmanager
def parent_run(
    sweep: SweepConfig,
    ledger: Ledger,
    tracking: TrackingConfig,
    recorded: SweepConfig | None = None,
) -> Iterator[str | None]:
    """Keep the sweep's own tracking run open; it ends with the status of its trials.

    A run that begins here has the settings of `recorded`, of which the sweep may be a part.
    The runs of trials that nobody goes on with, whichever command began them, are ended first.
    While another command is at the same sweep, all of this is left to that command.
    """
    tracking = replace(tracking, log_model=False, run_name=None)
    with ledger.joined() as is_last:
        with ledger.held("parent"):  # of two commands that begin together one begins it
            tracker = _parent_tracker(recorded or sweep, ledger, tracking)
        with tracker:
            try:
                if tracker.uri is not None:
                    _adopt_trials(read_progress(sweep, ledger), tracking, tracker.run_id)
                yield tracker.run_id if tracker.uri is not None else None
            finally:
                if is_last():
                    end_trials(ledger, tracking)
                else:
                    tracker.leave()
            tracker.finish(_last_status(read_progress(sweep, ledger)))


def _adopt_trials(progress: Progress, tracking: TrackingConfig, parent_run_id: str) -> None:
    """Nest the runs of all trials that have begun below the sweep's own run.

    They are elsewhere if that run was lost and this is its successor.
    """
    records = progress.records.values()
    run_ids = [record.run_id for record in records if record.run_id is not None]
    try:
        if run_ids:
            adopt(tracking, run_ids, parent_run_id)
    except SpireError as error:  # the next command tries it again
        _log.warning("earlier trials may not be below run %s: %s", parent_run_id, error)


def is_open(run_dir: Path | None) -> bool:
    """Return whether a run has a folder on this disk and has not ended."""
    return run_dir is not None and (run_dir / RECORD).is_file() and not has_ended(run_dir)


def _last_status(progress: Progress) -> Status:
    """Return the status with which a sweep's own run ends: that of the trials of its last command.

    Trials of other seeds or axes are those of the commands that name them.
    """
    if progress.num_undrawn or progress.with_status("unfinished"):
        return "KILLED"
    return "FAILED" if progress.with_status("failed") else "FINISHED"


def _parent_tracker(sweep: SweepConfig, ledger: Ledger, tracking: TrackingConfig) -> Tracker:
    """Return the tracker of the sweep's own run, or of a new one if that was deleted."""
    run_dir = ledger.parent_run_dir
    if run_dir is None or is_deleted(run_dir, tracking):
        tags = {"spire.kind": "sweep", "spire.sweep": sweep.name, "preset": sweep.preset}
        tags[NOTE] = shortened(f"**{sweep.name}**\n\n{sweep.question}")  # a report replaces it
        tracker = Tracker.start(tracking, sweep.name, tags, kind="sweep")
        tracker.log_dict(dataclasses.asdict(sweep.labelled()), "config/sweep.yaml")
        ledger.remember_parent(tracker.run_dir)  # last: a run that goes on has its file
        return tracker
    if not (run_dir / RECORD).is_file():  # its folder was deleted, and it is in the store
        make_runs_folder(tracking)
        uri = tracking_uri(tracking)
        run_dir = make_run_dir(tracking, run_dir.name, sweep.name, uri, "sweep")
        ledger.remember_parent(run_dir)
    return Tracker.resume(tracking, run_dir)
