"""A sweep's folder with a record of each trial, from which the same command goes on.

`<root>/studies/<name>-<key>/trials/<trial id>.json` is written by the process that runs the trial,
which holds the lock beside it meanwhile. `draws.jsonl` has the parameters that Optuna has drawn.
Damaged files and lines count as missing.
"""

import contextlib
import fcntl
import json
import logging
import math
import os
import platform
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

from pipeline.config.tracking import TrackingConfig, tracking_root
from pipeline.files.atomic import read_json, try_lock, write_json
from pipeline.files.paths import mask
from spire_core.errors import ClusterError
from sweeps.design.config import SweepConfig
from sweeps.design.points import TuneParams
from sweeps.execution.trial_record import TrialRecord, is_path, is_record

NOTICE_S = 30.0  # before it is said who holds a lock
POLL_S = 0.2  # between two looks at it
_log = logging.getLogger(__name__)


def sign(file: IO[str]) -> None:
    """Write into a locked file whose it is."""
    file.truncate(0)
    file.write(f"process {os.getpid()} on {platform.node()}\n")
    file.flush()


class LockWait:
    """The wait for a file that another process has locked; it says once who that is."""

    def __init__(self, file: IO[str]) -> None:
        self.file, self._notice = file, time.monotonic() + NOTICE_S

    def pause(self, seconds: float) -> None:
        """Wait until the next look at the lock."""
        if time.monotonic() > self._notice:
            self.file.seek(0)
            holder = self.file.read().strip() or "a process"
            _log.warning("waiting for %s, which holds %s", holder, self.file.name)
            self._notice = math.inf
        time.sleep(seconds)


@contextlib.contextmanager
def held_lock(path: Path) -> Iterator[None]:
    """Hold a lock until the end of a block; waits while a living process has it, and says so."""
    with path.open("a+") as file:
        wait = LockWait(file)
        while not try_lock(file):
            wait.pause(POLL_S)
        sign(file)
        yield


class Ledger:
    """The trial records of one sweep, a small file each."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def of(cls, sweep: SweepConfig, tracking: TrackingConfig) -> "Ledger":
        """Return the ledger of a sweep, in the folder where its runs are."""
        return cls(tracking_root(tracking) / "studies" / f"{sweep.name}-{sweep.key}")

    @property
    def _joined(self) -> Path:
        return self._path("commands").with_suffix(".lock")

    def check_is_shared(self) -> None:
        """Raise ClusterError where the folder that the sweep's command has joined is not there.

        As on a node with a disk of its own, whose records and runs nobody would find.
        """
        if not self._joined.is_file():
            raise ClusterError(
                f"expected the sweep's folder {self.folder} on every node, got none on "
                f"{platform.node()}: name one that all nodes share with tracking.root or SPIRE_ROOT"
            )

    def _path(self, trial_id: str) -> Path:
        return self.folder / "trials" / f"{trial_id}.json"

    def read(self, trial_id: str) -> TrialRecord | None:
        """Return a trial's record; None if it has never begun or its file is damaged."""
        path = self._path(trial_id)
        values = read_json(path)
        if values is None:
            return None
        if not is_record(values) or values["trial_id"] != trial_id:
            _log.warning("damaged: %s is passed over: expected the record of a trial", path)
            return None
        return TrialRecord(**values)

    def write(self, record: TrialRecord) -> None:
        """Replace a trial's record."""
        self._path(record.trial_id).parent.mkdir(parents=True, exist_ok=True)
        error = None if record.error is None else mask(record.error)
        write_json(self._path(record.trial_id), vars(record) | {"error": error})

    def update(self, trial_id: str, **changes: Any) -> TrialRecord:
        """Change some fields of a trial's record."""
        record = replace(self.read(trial_id) or TrialRecord(trial_id, "running"), **changes)
        self.write(record)
        return record

    def reopen(self, trial_ids: Iterable[str]) -> None:
        """Mark trials that failed, or could not begin, as running again."""
        for trial_id, record in self.records(trial_ids).items():
            if record.error is not None:
                self.update(trial_id, status="running", error=None)

    def write_traceback(self, trial_id: str, text: str) -> None:
        """Keep the traceback of an error beside the record."""
        self._path(trial_id).with_suffix(".traceback.txt").write_text(mask(text))

    @contextlib.contextmanager
    def held(self, name: str) -> Iterator[None]:
        """Keep every other process from a trial; waits while a living one holds it, and says so.

        `name`: the id of a trial, or `parent` for the sweep's own run.
        """
        path = self._path(name).with_suffix(".lock")
        path.parent.mkdir(parents=True, exist_ok=True)
        with held_lock(path):
            yield

    def is_held(self, name: str) -> bool:
        """Return whether a living process holds a trial."""
        path = self._path(name).with_suffix(".lock")
        if not path.is_file():
            return False
        with path.open("a+") as file:
            return not try_lock(file)

    @contextlib.contextmanager
    def joined(self) -> Iterator[Callable[[], bool]]:
        """Count as one of the commands at this sweep; yields a test for the last of them.

        If the test succeeds, every command that comes now waits until the block ends; if not, this
        one does not count any more. Dead commands do not count.
        """
        self._joined.parent.mkdir(parents=True, exist_ok=True)
        # NFS shares a lock on what can be read, and gives one alone on what can be written.
        with self._joined.open("a+") as file:
            fcntl.flock(file, fcntl.LOCK_SH)
            yield lambda: _is_alone(file)

    def draws(self) -> list[TuneParams]:
        """Return the parameters that a search has drawn, in order."""
        path, draws = self.folder / "draws.jsonl", []
        for line in path.read_bytes().split(b"\n") if path.is_file() else ():
            with contextlib.suppress(ValueError, RecursionError):  # a crash may cut a line off
                if isinstance(params := json.loads(line), dict):
                    draws.append(params)
        return draws

    def add_draw(self, params: Mapping[str, Any]) -> None:
        """Keep the parameters that a search has drawn."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "draws.jsonl").open("a") as file:
            file.write("\n" * (file.tell() > 0) + json.dumps(dict(params)))
            file.flush()
            os.fsync(file.fileno())  # as the record of its trial is

    def records(self, trial_ids: Iterable[str]) -> dict[str, TrialRecord]:
        """Return the records of those trials that have begun, by id."""
        records = {trial_id: self.read(trial_id) for trial_id in trial_ids}
        return {trial_id: record for trial_id, record in records.items() if record is not None}

    def all_records(self) -> dict[str, TrialRecord]:
        """Return the records of all trials that have begun, whatever seeds or axes they have.

        A command may name a part of them alone.
        """
        paths = sorted((self.folder / "trials").glob("*.json"))
        return self.records(path.stem for path in paths)

    @property
    def is_new(self) -> bool:
        """Whether nothing of the sweep has begun."""
        return self.parent_run_dir is None

    @property
    def parent_run_dir(self) -> Path | None:
        """The folder of the sweep's own run, named by the run's id, once that has begun.

        The folder may have been deleted; the run is still in the store.
        """
        return read_run_dir(self.folder / "sweep.json")

    def remember_parent(self, run_dir: Path) -> None:
        """Keep the folder of the sweep's own run."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(self.folder / "sweep.json", {"run_dir": str(run_dir)})


def _is_alone(file: IO[str]) -> bool:
    """Turn a share of a lock into the whole of it; else give the share up and return False.

    NFS would keep the share, and of two processes that both ask none would ever get the whole.
    """
    if try_lock(file):
        return True
    fcntl.flock(file, fcntl.LOCK_UN)
    return try_lock(file)


def read_run_dir(path: Path) -> Path | None:
    """Return the run folder that a JSON file names; None if the file is missing or damaged."""
    values = read_json(path)
    if values is None:
        return None
    if not is_path(run_dir := values.get("run_dir")):
        _log.warning("damaged: %s is passed over: expected the folder of a run", path)
        return None
    return Path(run_dir)
