"""One trial: an experiment that begins or resumes, with its outcome in the ledger."""

import contextlib
import functools
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.cluster.actor_plan import ActorPlan
from pipeline.config.meaning import pretrain_fingerprint
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
from spire_core.errors import BusyError, ClusterError, SpireError, StoreError
from sweeps.design.points import TuneParams
from sweeps.execution.ended import ended_result
from sweeps.execution.ledger import Ledger
from sweeps.execution.shared_pretraining import SharedPretraining
from sweeps.execution.trial_record import TrialRecord

Report = Callable[[dict[str, float]], None]


@dataclass(frozen=True)
class TrialTask:
    """The settings of a trial for its own process.

    `params`: with which Tune started it. `folder`: of the ledger. `pretrained`: the folder of
    pre-trainings that it shares with others. `tags`: of its run, beside the usual ones. `actors`:
    of its clients, which its placement group holds; None if its own process does their work.
    `may_stop`: a scheduler may stop it by its scores.
    """

    trial_id: str
    config: Config
    preset: str
    params: TuneParams
    folder: str
    parent_run_id: str | None
    pretrained: str | None
    tags: dict[str, str]
    actors: ActorPlan | None = None
    may_stop: bool = False


class _Watcher(Watcher):
    """Writes the trial's run into the ledger, and reports every evaluation."""

    def __init__(
        self, task: TrialTask, ledger: Ledger, report: Report, shared: SharedPretraining | None
    ) -> None:
        self.task, self.ledger, self.report, self.shared = task, ledger, report, shared
        self.may_stop = task.may_stop

    def started(self, run_dir: Path) -> None:
        task = self.task
        self.ledger.write(TrialRecord(task.trial_id, "running", str(run_dir), task.params))

    def evaluated(self, evaluation: Evaluation, floor: float) -> None:
        if evaluation.round_idx > 0:  # schedulers count from 1
            self.report({"round": evaluation.round_idx, **evaluation.metrics()})

    def pretrained(self, run_dir: Path) -> None:
        if self.shared is not None:
            self.shared.publish(run_dir)


def run_trial(task: TrialTask, report: Report, reports_rounds: bool = True) -> None:
    """Run or resume a trial's experiment, unless it is finished; write its outcome down.

    One that failed or was stopped while this one waited for it stays so. An error of the experiment
    itself is an outcome. An error that a second try may mend, such as the loss of an actor, is
    raised. `report` gets the final numbers and, with `reports_rounds`, those of every evaluation.
    ClusterError on a node that does not share the sweep's folder.
    """
    ledger = Ledger(Path(task.folder))
    ledger.check_is_shared()
    with ledger.held(task.trial_id):
        record = ledger.read(task.trial_id)
        result = None if record is None else record.result
        if record is not None and result is None and record.status in ("failed", "stopped"):
            return  # another command has ended it
        if record is None or result is None:
            result = _outcome(task, ledger, report if reports_rounds else _ignore)
        elif record.status != "finished":
            ledger.update(task.trial_id, status="finished", error=None)
    if result is not None:
        report({"round": task.config.federation.num_rounds + 1, **_reported(result["metrics"])})


def _reported(metrics: dict[str, float]) -> dict[str, float]:
    """Return final numbers; those of the last round also under the names that rounds use."""
    last = {n: metrics[final_name(n)] for n in ROUND_METRICS if final_name(n) in metrics}
    return last | metrics


def _outcome(task: TrialTask, ledger: Ledger, report: Report) -> dict[str, Any] | None:
    """Return a finished run's result as JSON values; None if it failed. Either is written down."""
    try:
        begun = _begun(task, ledger)
        values = None if begun is None else ended_result(begun, task.config.tracking)
        if values is None:
            with _shared(task) as shared:
                watcher = _Watcher(task, ledger, report, shared)
                values = result_json(_experiment(task, begun, watcher, shared), task.preset)
    except (BusyError, StoreError) as error:
        ledger.update(task.trial_id, status="running", error=str(error))
        raise
    except ClusterError:
        raise
    except Exception as error:
        message = str(error) if isinstance(error, SpireError) else repr(error)
        ledger.update(task.trial_id, status="failed", error=" ".join(message.split()))
        ledger.write_traceback(task.trial_id, traceback.format_exc())
        return None
    ledger.update(task.trial_id, status="finished", result=values, error=None)
    return values


def _begun(task: TrialTask, ledger: Ledger) -> Path | None:
    """Return the folder of the trial's run; None if it has none, or that was deleted."""
    record = ledger.read(task.trial_id)
    run_dir = Path(record.run_dir) if record is not None and record.run_dir else None
    if run_dir is None or not (run_dir / RECORD).is_file():
        return None
    return None if is_deleted(run_dir, task.config.tracking) else run_dir


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
    task: TrialTask, begun: Path | None, watcher: _Watcher, shared: SharedPretraining | None
) -> Result:
    pretrained = None if shared is None else shared.acquire()
    if begun is not None:
        reused = None if pretrained == begun else pretrained
        return resume_experiment(
            begun,
            task.config,
            watcher,
            reused,
            preset=task.preset,
            extra_tags=task.tags,
            actors=task.actors,
        )
    if task.parent_run_id is not None:  # drop the run of a process that was killed at its start
        ours = {"mlflow.parentRunId": task.parent_run_id, "spire.trial_id": task.trial_id}
        drop_runs(task.config.tracking, ours)
    return run_experiment(
        task.config,
        task.preset,
        watcher,
        task.parent_run_id,
        pretrained,
        task.tags,
        task.actors,
    )
