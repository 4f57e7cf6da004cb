"""A sweep's folder, from which the same command goes on; each trial's record is its run's folder.

`<root>/studies/<name>-<key>/` holds
    run                       the id of the sweep's own run
    trials/<trial id>/run     the id of a trial's run: the trial has finished if that has a result
                     /error.txt   why it failed: a sentence, then the traceback
                     /stopped     a scheduler has stopped it
                     /lock        held by the process that runs it
    pretrained/               the pre-trainings that trials share
    search.db                 Optuna's draws
    tune/                     Ray's own files
"""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from pipeline.config.tracking import TrackingConfig, tracking_root
from pipeline.files.paths import mask
from pipeline.results.metric_names import final_name
from pipeline.runs.layout import RECORD, RUNS
from pipeline.runs.noise_key import drop_noise_key
from pipeline.runs.record import load_result, run_lock
from pipeline.tracking.tracker import Status, note_end, relay_rest
from spire_core.errors import ClusterError, SpireError
from sweeps.design.config import SweepConfig
from sweeps.design.points import Trial

DYING_S = 5.0  # for processes that Ray has just killed to be gone
_log = logging.getLogger(__name__)


class Study:
    """The folder of a sweep."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def of(cls, sweep: SweepConfig, tracking: TrackingConfig) -> "Study":
        """Return the folder of a sweep below the root of its runs."""
        return cls(tracking_root(tracking) / "studies" / f"{sweep.name}-{sweep.key}")

    @property
    def parent_run_dir(self) -> Path | None:
        """The folder of the sweep's own run, once that has begun."""
        return self.read_run(self.folder / "run")

    def run_dir(self, trial_id: str) -> Path | None:
        """Return the folder of a trial's run; None if it has none."""
        return self.read_run(self.trial_file(trial_id, "run"))

    def read_run(self, file: Path) -> Path | None:
        """Return the folder of the run that a file names; None without one.

        The root may be at another place than when it was written.
        """
        run_id = file.read_text().strip() if file.is_file() else ""
        run_dir = self.folder.parents[1] / RUNS / run_id
        return run_dir if run_id and (run_dir / RECORD).is_file() else None

    def write_run(self, file: Path, run_dir: Path) -> None:
        """Let a file name a run."""
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(run_dir.name)

    def trial_file(self, trial_id: str, name: str) -> Path:
        """Return the path of a file of a trial."""
        return self.folder / "trials" / trial_id / name

    def lock(self, trial_id: str) -> FileLock:
        """Return the lock of the process that runs a trial; it ends with that process."""
        file = self.trial_file(trial_id, "lock")
        file.parent.mkdir(parents=True, exist_ok=True)
        return FileLock(file)

    def result(self, trial_id: str) -> dict[str, Any] | None:
        """Return the object that a finished trial's run has printed; RunError if it is damaged."""
        run_dir = self.run_dir(trial_id)
        return None if run_dir is None else load_result(run_dir)

    def status(self, trial_id: str) -> str:
        """Return finished, failed, stopped (by the scheduler) or unfinished."""
        if self.result(trial_id) is not None:
            return "finished"
        if self.trial_file(trial_id, "error.txt").is_file():
            return "failed"
        return "stopped" if self.trial_file(trial_id, "stopped").is_file() else "unfinished"

    def error(self, trial_id: str) -> str | None:
        """Return in one sentence why a trial failed."""
        file = self.trial_file(trial_id, "error.txt")
        return file.read_text().partition("\n")[0] if file.is_file() else None

    def fail(self, trial_id: str, sentence: str, traceback: str = "") -> None:
        """Keep why a trial has failed."""
        text = f"{' '.join(sentence.split())}\n{traceback}"
        file = self.trial_file(trial_id, "error.txt")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(mask(text))

    def end_trials(self, tracking: TrackingConfig) -> None:
        """Give the run of each trial its last status, whichever command began it.

        One whose process lives is left to that process. A stopped one loses its noise key; one that
        failed may be tried again under its key. A store that is away is asked once.
        """
        deadline, is_away = time.monotonic() + DYING_S, False
        for trial_id in sorted(path.name for path in (self.folder / "trials").glob("*")):
            if (run_dir := self.run_dir(trial_id)) is None:
                continue
            try:
                with run_lock(run_dir, max(0.0, deadline - time.monotonic())):
                    found = self.status(trial_id)
                    if found in ("finished", "stopped"):
                        drop_noise_key(run_dir)
                    statuses: dict[str, Status] = {"finished": "FINISHED", "failed": "FAILED"}
                    note_end(run_dir, tracking, statuses.get(found, "KILLED"))
                if not is_away:
                    relay_rest(run_dir, tracking)
            except (OSError, SpireError) as error:  # the others are ended all the same
                is_away |= isinstance(error, ClusterError)
                _log.warning("the end of run %s is not recorded yet: %s", run_dir.name, error)


@dataclass(frozen=True)
class Progress:
    """How far a sweep is: the trials that can be named, and what is known of each by its id.

    These are all trials of a grid, and those that a search has drawn so far. `num_undrawn`: draws
    that the search has still to make.
    """

    sweep: SweepConfig
    trials: Sequence[Trial]
    statuses: dict[str, str]
    results: dict[str, dict[str, Any]]
    num_undrawn: int = 0

    @property
    def num_trials(self) -> int:
        return len(self.trials) + self.num_undrawn

    def with_status(self, *statuses: str) -> list[Trial]:
        """Return the trials of some statuses."""
        return [trial for trial in self.trials if self.statuses[trial.trial_id] in statuses]

    def left(self, retry_failed: bool = False) -> list[Trial]:
        """Return the trials to run: unfinished ones, and on demand failed ones."""
        return self.with_status("unfinished", *(["failed"] if retry_failed else []))

    def scores(self) -> list[float]:
        """Return the scores of the finished trials that have one."""
        found = (score_of(self.sweep, result) for result in self.results.values())
        return [score for score in found if score is not None]

    def best(self) -> Trial | None:
        """Return the finished trial with the best score."""
        sign = 1 if self.sweep.mode == "min" else -1
        scored = [
            (sign * score, trial.trial_id, trial)
            for trial in self.with_status("finished")
            if (score := score_of(self.sweep, self.results[trial.trial_id])) is not None
        ]
        return min(scored)[2] if scored else None


def score_of(sweep: SweepConfig, result: Mapping[str, Any]) -> float | None:
    """Return a run's value of a sweep's metric; of a round's, that after the last round."""
    metrics = result["metrics"]
    return metrics.get(sweep.metric, metrics.get(final_name(sweep.metric)))


def progress_of(sweep: SweepConfig, study: Study, named: Sequence[Trial]) -> Progress:
    """Return how far the named trials are."""
    statuses = {trial.trial_id: study.status(trial.trial_id) for trial in named}
    results = {trial.trial_id: study.result(trial.trial_id) for trial in named}
    found = {trial_id: result for trial_id, result in results.items() if result is not None}
    return Progress(sweep, named, statuses, found)
