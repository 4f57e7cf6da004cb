"""The ends of trials whose process is gone, of which some were killed right at their end."""

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.config.tracking import TrackingConfig
from pipeline.files.atomic import DamagedError
from pipeline.runs.layout import RECORD
from pipeline.runs.noise_key import drop_noise_key
from pipeline.tracking.outbox import num_waiting
from pipeline.tracking.tracker import Status, end_run, is_deleted, note_end, relay_rest
from spire_core.errors import ClusterError, ConfigError, SpireError
from sweeps.execution.ledger import Ledger
from sweeps.execution.trial_record import TrialRecord

DYING_S = 5.0  # for processes that Ray has just killed to be gone
_log = logging.getLogger(__name__)


def ended_result(run_dir: Path, tracking: TrackingConfig) -> dict[str, Any] | None:
    """Return the result that a run has written, and do the rest of its end; None without one.

    Its noise key goes, and its store has it as finished. RunError if its result is damaged.
    """
    values = load_result(run_dir)
    if values is not None:
        drop_noise_key(run_dir)
        end_run(run_dir, tracking, "FINISHED")
    return values


def end_trials(ledger: Ledger, tracking: TrackingConfig) -> None:
    """End the runs of trials that failed, were stopped, or were interrupted.

    One whose result was written before has finished. One whose process lives is left to that
    process, and one that was deleted in its store as it is there. All have their last status on the
    disk before the store, which may be away, is asked.
    """
    ended, deadline = {}, time.monotonic() + DYING_S
    for record in ledger.all_records().values():
        run_dir = None if record.run_dir is None else Path(record.run_dir)
        if record.status == "finished" or run_dir is None or not (run_dir / RECORD).is_file():
            continue
        try:
            with run_lock(run_dir, max(0.0, deadline - time.monotonic())):
                ended[record.trial_id] = run_dir, _end(record, run_dir, tracking)
        except (OSError, SpireError) as error:  # the others are ended all the same
            _warn(run_dir, error)
    _deliver(ended, ledger, tracking)


def _end(record: TrialRecord, run_dir: Path, tracking: TrackingConfig) -> dict[str, Any] | None:
    """Give a trial's run its last status on the disk; return its result if it has finished.

    Nobody goes on with one that was stopped, so that its noise key goes; others may be tried again.
    """
    status: Status = "FAILED" if record.status == "failed" else "KILLED"
    result = None
    if record.status != "stopped":
        try:
            result = load_result(run_dir)
        except DamagedError:
            if record.status != "failed":  # somebody has to look
                raise
    if result is not None:
        status = "FINISHED"
    if result is not None or record.status == "stopped":
        drop_noise_key(run_dir)
    note_end(run_dir, tracking, status)
    return result


def _deliver(
    ended: Mapping[str, tuple[Path, dict[str, Any] | None]],
    ledger: Ledger,
    tracking: TrackingConfig,
) -> None:
    """Relay what runs have left, and write down which trials have finished.

    A store that does not answer is asked once: the next command finds what has finished.
    """
    for trial_id, (run_dir, result) in ended.items():
        try:
            if result is None and not num_waiting(run_dir):
                continue
            if is_deleted(run_dir, tracking):
                continue
            relay_rest(run_dir, tracking)
            if result is not None:
                ledger.update(trial_id, status="finished", result=result, error=None)
        except (ClusterError, ConfigError) as error:
            _log.warning("the ends of trials wait for `spire sync`: %s", error)
            return
        except (OSError, SpireError) as error:
            _warn(run_dir, error)


def _warn(run_dir: Path, error: Exception) -> None:
    _log.warning("the end of run %s is not recorded: %s", run_dir.name, error)
