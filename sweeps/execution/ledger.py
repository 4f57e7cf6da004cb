"""A sweep's folder: what became of each trial, so that the same command again goes on from there.

`<root>/studies/<name>-<key>/trials/<trial id>.json` is written by whoever runs the trial, which
holds the lock beside it meanwhile. `draws.jsonl` has the points that Optuna has drawn.
"""

import contextlib
import fcntl
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pipeline.config.tracking import TrackingConfig, tracking_root
from pipeline.files.atomic import try_lock
from pipeline.files.json_files import read_json, write_json
from sweeps.design.config import SweepConfig
from sweeps.design.points import Trial, decoded, trials

Status = Literal["running", "finished", "failed", "stopped"]


@dataclass(frozen=True)
class Entry:
    """What is known of a trial that has begun.

    `result` is the object that `spire run --json` prints; `error` says in one sentence why it
    failed or, of one that is running, why it could not begin.
    """

    trial_id: str
    status: Status
    run_dir: str | None = None
    point: dict[str, Any] | None = None
    result: dict[str, Any] | None = None
    error: str | None = None

    @property
    def run_id(self) -> str | None:
        return None if self.run_dir is None else Path(self.run_dir).name


class Ledger:
    """The entries of one sweep, a small file each."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def of(cls, sweep: SweepConfig, tracking: TrackingConfig) -> "Ledger":
        """Return the ledger of a sweep, in the folder where its runs are."""
        return cls(tracking_root(tracking) / "studies" / f"{sweep.name}-{sweep.key}")

    def _path(self, trial_id: str) -> Path:
        return self.folder / "trials" / f"{trial_id}.json"

    def read(self, trial_id: str) -> Entry | None:
        """Return what is known of a trial, or None if it has never begun or that is damaged."""
        values = read_json(self._path(trial_id))
        return None if values is None else Entry(**values)

    def write(self, entry: Entry) -> None:
        """Replace what is known of a trial."""
        self._path(entry.trial_id).parent.mkdir(parents=True, exist_ok=True)
        write_json(self._path(entry.trial_id), vars(entry))

    def update(self, trial_id: str, **changes: Any) -> Entry:
        """Change some of what is known of a trial."""
        entry = replace(self.read(trial_id) or Entry(trial_id, "running"), **changes)
        self.write(entry)
        return entry

    def write_traceback(self, trial_id: str, text: str) -> None:
        """Keep where an error came from, beside the entry."""
        self._path(trial_id).with_suffix(".traceback.txt").write_text(text)

    @contextlib.contextmanager
    def held(self, what: str) -> Iterator[None]:
        """Keep every other process from a trial; waits while one is at it, dead ones excepted.

        `what`: the id of a trial, or `parent` for the sweep's own run.
        """
        path = self._path(what).with_suffix(".lock")
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    @contextlib.contextmanager
    def joined(self) -> Iterator[Callable[[], bool]]:
        """Be one of the commands at this sweep; yields what tells whether it is the last of them.

        If so, any that comes now waits until the block ends. Dead ones do not count.
        """
        path = self._path("commands").with_suffix(".lock")
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w") as file:
            fcntl.flock(file, fcntl.LOCK_SH)
            yield lambda: try_lock(file)

    def draws(self) -> list[dict[str, Any]]:
        """Return the points that a search has drawn, in order."""
        path, found = self.folder / "draws.jsonl", []
        for line in path.read_text().splitlines() if path.is_file() else ():
            with contextlib.suppress(ValueError):  # cut off by a crash: its trial never began
                found.append(json.loads(line))
        return found

    def add_draw(self, point: Mapping[str, Any]) -> None:
        """Keep a point that a search has drawn."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "draws.jsonl").open("a") as file:
            file.write("\n" * (file.tell() > 0) + json.dumps(dict(point)))

    def entries(self, trial_ids: Iterable[str]) -> dict[str, Entry]:
        """Return the entries of those trials that have begun."""
        found = {trial_id: self.read(trial_id) for trial_id in trial_ids}
        return {trial_id: entry for trial_id, entry in found.items() if entry is not None}

    @property
    def parent_run_dir(self) -> Path | None:
        """The folder of the sweep's own run, which has its id as its name, once that has begun.

        Somebody may have deleted it; the run is in the store all the same.
        """
        values = read_json(self.folder / "sweep.json")
        return None if values is None else Path(values["run_dir"])

    def remember_parent(self, run_dir: Path) -> None:
        """Keep where the sweep's own run is."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(self.folder / "sweep.json", {"run_dir": str(run_dir)})


def known_trials(sweep: SweepConfig, ledger: Ledger) -> list[Trial]:
    """Return the trials that can be named: all of a grid, and what Optuna has drawn so far."""
    if sweep.search != "optuna":
        return trials(sweep)
    return trials(sweep, [decoded(sweep, point) for point in ledger.draws()])


def undrawn(sweep: SweepConfig, ledger: Ledger) -> int:
    """Return how many points Optuna has still to draw; a point drawn twice is one trial."""
    to_draw = sweep.num_trials if sweep.search == "optuna" else None
    return max(0, (to_draw or 0) - len(ledger.draws()))
