"""One trial: an experiment, begun or gone on with, whose outcome is written into the ledger."""

import contextlib
import functools
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.config.equivalence import pretrain_fingerprint
from pipeline.config.schema import Config
from pipeline.evaluation.scores import Evaluation
from pipeline.experiment.reuse import has_pretraining
from pipeline.experiment.run import resume_experiment, run_experiment
from pipeline.experiment.watcher import Watcher
from pipeline.results.files import result_json
from pipeline.results.metric_names import ROUND_METRICS, final_name
from pipeline.results.result import Result
from pipeline.runs.layout import RECORD
from pipeline.tracking.tracker import drop_runs, is_deleted
from spire_core.errors import ClusterError, SpireError, StoreError
from sweeps.execution.ledger import Entry, Ledger
from sweeps.execution.shared_pretraining import SharedPretraining

Report = Callable[[dict[str, float]], None]


@dataclass(frozen=True)
class TrialTask:
    """What the process of a trial is told; `tags` are those of its run beside the usual ones."""

    trial_id: str
    config: Config
    preset: str
    point: dict[str, Any]
    folder: str  # of the ledger
    parent_run_id: str | None
    pretrained: str | None  # the folder of pre-trainings that it shares with others
    tags: dict[str, str]
    may_stop: bool = False  # by its scores, as a scheduler decides


class _Watcher(Watcher):
    """Writes into the ledger which run this is, and reports every evaluation."""

    def __init__(
        self, task: TrialTask, ledger: Ledger, report: Report, shared: SharedPretraining | None
    ) -> None:
        self.task, self.ledger, self.report, self.shared = task, ledger, report, shared
        self.may_stop = task.may_stop

    def started(self, run_dir: Path) -> None:
        task = self.task
        self.ledger.write(Entry(task.trial_id, "running", str(run_dir), task.point))

    def evaluated(self, evaluation: Evaluation, floor: float) -> None:
        if evaluation.round_idx > 0:  # schedulers count from 1
            self.report({"round": evaluation.round_idx, **evaluation.metrics()})

    def pretrained(self, run_dir: Path) -> None:
        if self.shared is not None:
            self.shared.publish(run_dir)


def run_trial(task: TrialTask, report: Report, reports_rounds: bool = True) -> None:
    """Run or resume a trial's experiment, unless it is finished; write down what became of it.

    A mistake or an error of the experiment itself is its outcome. What a second try may mend, such
    as the loss of an actor, is raised. `report` gets the final numbers and, with `reports_rounds`,
    those of every evaluation.
    """
    ledger = Ledger(Path(task.folder))
    with ledger.held(task.trial_id):
        entry = ledger.read(task.trial_id)
        finished = None if entry is None else entry.result
        if entry is None or finished is None:
            finished = _outcome(task, ledger, report if reports_rounds else _ignore)
        elif entry.status != "finished":
            ledger.update(task.trial_id, status="finished", error=None)
    if finished is not None:
        report({"round": task.config.federation.num_rounds + 1, **_reported(finished["metrics"])})


def _reported(metrics: dict[str, float]) -> dict[str, float]:
    """Return final numbers, those of the last round under the names that rounds have as well."""
    last = {n: metrics[final_name(n)] for n in ROUND_METRICS if final_name(n) in metrics}
    return last | metrics


def _outcome(task: TrialTask, ledger: Ledger, report: Report) -> dict[str, Any] | None:
    """Return what a finished run prints, or None if it failed; either is in the ledger then."""
    try:
        with _shared(task) as shared:
            watcher = _Watcher(task, ledger, report, shared)
            result = _experiment(task, ledger, watcher, shared)
            told = result_json(result, task.preset)
    except StoreError as error:
        ledger.update(task.trial_id, status="running", error=str(error))
        raise
    except ClusterError:
        raise
    except Exception as error:
        said = str(error) if isinstance(error, SpireError) else repr(error)
        ledger.update(task.trial_id, status="failed", error=" ".join(said.split()))
        ledger.write_traceback(task.trial_id, traceback.format_exc())
        return None
    ledger.update(task.trial_id, status="finished", result=told)
    return told


def _ignore(metrics: dict[str, float]) -> None:
    """Report nothing."""


@contextlib.contextmanager
def _shared(task: TrialTask) -> Iterator[SharedPretraining | None]:
    if task.pretrained is None:
        yield None
        return
    is_whole = functools.partial(has_pretraining, config=task.config)
    shared = SharedPretraining(Path(task.pretrained), pretrain_fingerprint(task.config), is_whole)
    try:
        yield shared
    finally:
        shared.release()


def _experiment(
    task: TrialTask, ledger: Ledger, watcher: _Watcher, shared: SharedPretraining | None
) -> Result:
    pretrained = None if shared is None else shared.acquire()
    entry = ledger.read(task.trial_id)
    begun = Path(entry.run_dir) if entry is not None and entry.run_dir else None
    tracking = task.config.tracking
    if begun and (begun / RECORD).is_file() and not is_deleted(begun, tracking):
        taken = None if pretrained == begun else pretrained
        return resume_experiment(begun, task.config, watcher, taken)
    if task.parent_run_id is not None:  # who began it before was killed ere there was anything
        ours = {"mlflow.parentRunId": task.parent_run_id, "spire.trial_id": task.trial_id}
        drop_runs(tracking, ours)
    return run_experiment(
        task.config, task.preset, watcher, task.parent_run_id, pretrained, task.tags
    )
