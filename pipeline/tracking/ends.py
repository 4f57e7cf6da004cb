"""The last status of a run whose process is gone, and the delivery of what it has left."""

import logging
from pathlib import Path
from typing import Literal

from pipeline.config.tracking import TrackingConfig
from pipeline.runs.record import read_record
from pipeline.tracking.outbox import ENDED, Outbox, num_waiting
from pipeline.tracking.present_store import sink_of
from pipeline.tracking.relay import relay_all
from spire_core.errors import ClusterError, RunError

Status = Literal["FINISHED", "FAILED", "KILLED"]
_log = logging.getLogger(__name__)


def has_ended(run_dir: Path) -> bool:
    """Return whether a run was given its last status."""
    return Outbox(run_dir).status in ENDED


def end_run(run_dir: Path, config: TrackingConfig, status: Status) -> None:
    """Give a run its last status, as `note_end` does, and relay its rest if the store answers."""
    note_end(run_dir, config, status)
    try:
        relay_rest(run_dir, config)
    except (ClusterError, RunError) as error:
        _log.warning("the end of run %s is not delivered: %s", run_dir.name, error)
        warn_of_waiting(run_dir, num_waiting(run_dir))


def note_end(run_dir: Path, config: TrackingConfig, status: Status) -> None:
    """Write a run's last status into its outbox, unless it has one.

    FINISHED replaces the status of a process that was stopped at its end.
    """
    if not _is_tracked(run_dir, config):
        return
    outbox = Outbox(run_dir)
    if outbox.status not in (("FINISHED",) if status == "FINISHED" else ENDED):
        outbox.append("status", status=status)


def relay_rest(run_dir: Path, config: TrackingConfig) -> None:
    """Relay what waits in a run's outbox; raises as `sink_of` does."""
    if not _is_tracked(run_dir, config) or not num_waiting(run_dir):
        return
    relay_all(run_dir, sink_of(run_dir, config))
    warn_of_waiting(run_dir, num_waiting(run_dir))


def _is_tracked(run_dir: Path, config: TrackingConfig) -> bool:
    return config.enabled and read_record(run_dir)["tracked"]


def warn_of_waiting(run_dir: Path, num_entries: int) -> None:
    """Say how what waits in a run's outbox is delivered, if anything does."""
    if num_entries:
        _log.warning(
            "%d entries of run %s wait for its store: `spire sync %s` delivers them when it "
            "answers, and `spire sync` those of all runs",
            num_entries,
            run_dir.name,
            run_dir,
        )
