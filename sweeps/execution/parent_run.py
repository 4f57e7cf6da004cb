"""A sweep's own tracking run: begun once, opened by every command, ended by the last of them."""

import contextlib
import dataclasses
import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from pipeline.config.tracking import TrackingConfig, tracking_root, tracking_uri
from pipeline.runs.layout import RECORD
from pipeline.runs.ownership import Begun, begun_here, note_begun
from pipeline.runs.record import make_run_dir, make_runs_folder
from pipeline.tracking.mlflow_queries import adopt
from pipeline.tracking.tracker import Status, Tracker, end_run, has_ended, is_deleted
from spire_core.errors import SpireError
from sweeps.design.config import SweepConfig
from sweeps.execution.ledger import Ledger, known_trials, undrawn

_log = logging.getLogger(__name__)


@contextlib.contextmanager
def parent_run(
    sweep: SweepConfig, ledger: Ledger, tracking: TrackingConfig
) -> Iterator[str | None]:
    """Keep the sweep's own tracking run open; it ends as its trials did.

    What runs no more is given its end before. While another command is at the same sweep, both are
    left to that one.
    """
    tracking = replace(tracking, log_model=False, run_name=None)
    with ledger.joined() as is_last:
        with ledger.held("parent"):  # of two commands that begin together one begins it
            tracker = _parent_tracker(sweep, ledger, tracking)
        with tracker:
            try:
                if tracker.uri is not None:
                    _adopt_trials(sweep, ledger, tracking, tracker.run_id)
                yield tracker.run_id if tracker.uri is not None else None
            finally:
                if is_last():
                    _end_trials(sweep, ledger, tracking)
                else:
                    tracker.leave()
            tracker.finish(_last_status(sweep, ledger))


def _adopt_trials(
    sweep: SweepConfig, ledger: Ledger, tracking: TrackingConfig, parent_run_id: str
) -> None:
    """Have the runs of all trials that have begun below the sweep's own run.

    They are not if that was lost, and this is another one.
    """
    known = known_trials(sweep, ledger)
    entries = ledger.entries(trial.trial_id for trial in known).values()
    begun = [entry.run_id for entry in entries if entry.run_id is not None]
    try:
        if begun:
            adopt(tracking, begun, parent_run_id)
    except SpireError as error:  # the next command tries it again
        _log.warning("earlier trials may not be below run %s: %s", parent_run_id, error)


def is_open(run_dir: Path | None) -> bool:
    """Return whether a run, of which something is on the disk, has not been given its end."""
    return run_dir is not None and (run_dir / RECORD).is_file() and not has_ended(run_dir)


def _end_trials(sweep: SweepConfig, ledger: Ledger, tracking: TrackingConfig) -> None:
    """Give an end to the runs of trials that failed, were stopped, or were interrupted."""
    known = known_trials(sweep, ledger)
    for entry in ledger.entries(trial.trial_id for trial in known).values():
        run_dir = None if entry.run_dir is None else Path(entry.run_dir)
        if entry.status == "finished" or run_dir is None or not (run_dir / RECORD).is_file():
            continue
        try:
            end_run(run_dir, tracking, "FAILED" if entry.status == "failed" else "KILLED")
        except SpireError as error:  # the others are given an end all the same
            _log.warning("the end of run %s is not recorded: %s", run_dir.name, error)


def _last_status(sweep: SweepConfig, ledger: Ledger) -> Status:
    """Return the status with which a sweep's own run ends."""
    known = known_trials(sweep, ledger)
    entries = ledger.entries(trial.trial_id for trial in known)
    statuses = {entry.status for entry in entries.values()}
    if "running" in statuses or len(entries) < len(known) + undrawn(sweep, ledger):
        return "KILLED"
    return "FAILED" if "failed" in statuses else "FINISHED"


def _parent_tracker(sweep: SweepConfig, ledger: Ledger, tracking: TrackingConfig) -> Tracker:
    """Return the tracker of the sweep's own run, or of a new one if that was deleted."""
    run_dir = ledger.parent_run_dir
    if run_dir is None or is_deleted(run_dir, tracking):
        tags = {"spire.kind": "sweep", "spire.sweep": sweep.name, "preset": sweep.preset}
        tracker = Tracker.start(tracking, sweep.name, tags, kind="sweep")
        ledger.remember_parent(tracker.run_dir)
        tracker.log_dict(dataclasses.asdict(sweep), "config/sweep.yaml")
        return tracker
    if not (run_dir / RECORD).is_file():  # its folder was deleted, and it is in the store
        make_runs_folder(tracking)
        uri = tracking_uri(tracking)
        run_dir = make_run_dir(tracking, run_dir.name, sweep.name, uri, "sweep")
        if begun_here(run_dir, root := tracking_root(tracking)) is None:
            note_begun(root, run_dir.name, Begun(uri))
        ledger.remember_parent(run_dir)
    return Tracker.resume(tracking, run_dir)
