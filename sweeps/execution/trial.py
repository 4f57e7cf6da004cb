"""One trial in its own process: an experiment that begins or resumes, with its outcome on disk."""

import functools
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from pipeline.config.meaning import pretrain_fingerprint
from pipeline.config.schema import Config
from pipeline.config.tracking import TrackingConfig
from pipeline.evaluation.scores import Evaluation
from pipeline.experiment.reuse import has_pretraining
from pipeline.experiment.run import resume_experiment, run_experiment
from pipeline.experiment.watcher import Watcher
from pipeline.federation.driver import Driver
from pipeline.runs.record import located
from pipeline.tracking.mlflow_session import PARENT
from pipeline.tracking.tracker import drop_runs, is_deleted
from spire_core.errors import BusyError, ClusterError, SpireError
from sweeps.design.config import SweepConfig
from sweeps.design.points import Trial, TuneParams, trial_of
from sweeps.design.trial_plan import Nodes, TrialPlan, plan_trial
from sweeps.execution.study import Study, score_of

Report = Callable[[dict[str, Any]], None]
POLL_S = 0.5  # between two looks at whether a trial that waits is to go on


@dataclass(frozen=True)
class Command:
    """The trials that one command runs, and their common settings; travels to their processes.

    `listed`: trials that are known beforehand, by id; a search draws others. `data_root`,
    `tracking`: of all trials. `typed_in`: the folder that relative paths start from. `at_once`: the
    number of trials that share the cluster. `stop`: a file that is there once trials are to end.
    """

    sweep: SweepConfig
    study: Study
    listed: Mapping[str, Trial]
    tracking: TrackingConfig
    data_root: str
    typed_in: str
    parent_run_id: str | None
    nodes: Nodes
    at_once: int
    stop: Path

    def trial(self, params: TuneParams) -> Trial:
        """Return the trial that Tune starts with these parameters: an id, or a draw."""
        is_drawn = self.sweep.is_drawn
        return trial_of(self.sweep, params) if is_drawn else self.listed[params["trial_id"]]

    def plan(self, trial: Trial) -> TrialPlan:
        """Return the resources that a trial asks of the cluster."""
        return plan_trial(trial.config, self.nodes, self.at_once, self.sweep.autoscaling)

    def config(self, trial: Trial) -> Config:
        """Return a trial's configuration for its process, which has another directory."""
        config = located(trial.config, self.typed_in)
        tracking = replace(self.tracking, run_name=trial.label)
        data, resources = replace(config.data, root=self.data_root), config.resources
        if self.plan(trial).actors is None:
            resources = replace(resources, pool="local")
        return replace(config, data=data, tracking=tracking, resources=resources)

    def check_goes_on(self) -> None:
        """Raise KeyboardInterrupt once the trials are to end."""
        if self.stop.exists():
            raise KeyboardInterrupt

    def report_to(self, report: Report, round_idx: int, metrics: dict[str, Any]) -> None:
        """Report numbers, if they have the one by which a search or a scheduler goes."""
        numbers = {name: value for name, value in metrics.items() if value is not None}
        if self.sweep.metric in numbers or not self.sweep.needs_metric:
            report({"round": round_idx, **numbers})


class SharedPretraining:
    """One pre-training, by its fingerprint: `acquire`, then `publish` it or `release`.

    `<fingerprint>.run` names the run that has finished it. The lock beside it, which ends with its
    process, makes the others wait meanwhile.
    """

    def __init__(
        self, study: Study, folder: Path, fingerprint: str, is_whole: Callable[[Path], bool]
    ) -> None:
        """`is_whole` tells whether the pre-training in a run's folder can be reused."""
        folder.mkdir(parents=True, exist_ok=True)
        self.study, self.is_whole = study, is_whole
        self.file = folder / f"{fingerprint}.run"
        self.lock = FileLock(self.file.with_suffix(".lock"))

    def acquire(self, check_goes_on: Callable[[], None]) -> Path | None:
        """Return the run that has finished it; None if this process is to run it.

        Waits while another process runs it; `check_goes_on` may end that by an error.
        """
        while not self.lock.is_locked:
            check_goes_on()
            try:
                self.lock.acquire(timeout=POLL_S)
            except Timeout:
                continue
        run_dir = self.study.read_run(self.file)
        if run_dir is None or not self.is_whole(run_dir):
            return None
        self.release()
        return run_dir

    def publish(self, run_dir: Path) -> None:
        """Name this run as the one that has finished it; without the lock, do nothing."""
        if self.lock.is_locked:
            self.study.write_run(self.file, run_dir)
            self.release()

    def release(self) -> None:
        """Give the lock back, so that another process runs it unless it is published."""
        self.lock.release()


class _Watcher(Watcher):
    """Writes down the trial's run, reports every evaluation, and ends the run when it is to end."""

    def __init__(
        self, command: Command, trial: Trial, report: Report, shared: SharedPretraining
    ) -> None:
        self.command, self.trial, self.report, self.shared = command, trial, report, shared
        self.may_stop = command.sweep.scheduler != "none"

    def started(self, run_dir: Path) -> None:
        super().started(run_dir)
        study = self.command.study
        study.write_run(study.trial_file(self.trial.trial_id, "run"), run_dir)

    def between_rounds(self, done: int, driver: Driver) -> None:
        self.command.check_goes_on()  # as an interrupt, after which the run keeps its last round

    def evaluated(self, evaluation: Evaluation, floor: float) -> None:
        if self.may_stop and evaluation.round_idx > 0:  # schedulers count from 1
            self.command.report_to(self.report, evaluation.round_idx, evaluation.metrics())

    def pretrained(self, run_dir: Path) -> None:
        self.shared.publish(run_dir)


def run_trial(command: Command, trial: Trial, report: Report) -> None:
    """Run or resume a trial's experiment, unless it is finished; write its outcome down.

    One that another command has ended while this one waited for it stays so. An error of the
    experiment itself is an outcome. An error that a second try may mend, such as the loss of an
    actor, is raised. `report` gets the final numbers, and those of every evaluation if a scheduler
    may stop the trial. ClusterError on a node that does not share the sweep's folder.
    """
    study, trial_id = command.study, trial.trial_id
    if not study.folder.is_dir():
        raise ClusterError(
            f"expected the sweep's folder {study.folder} on every node, got none here: name one "
            "that all nodes share with tracking.root or SPIRE_ROOT"
        )
    with study.lock(trial_id):
        try:
            if study.status(trial_id) == "unfinished":
                command.check_goes_on()
                _run(command, trial, report)
            if (result := study.result(trial_id)) is not None:
                after = trial.config.federation.num_rounds + 1
                score = {command.sweep.metric: score_of(command.sweep, result)}
                command.report_to(report, after, result["metrics"] | score)
        except KeyboardInterrupt:  # the same command goes on with it
            return
        except (ClusterError, BusyError):  # a store, an actor, another process: Ray tries again
            raise
        except Exception as error:
            sentence = str(error) if isinstance(error, SpireError) else repr(error)
            study.fail(trial_id, sentence, traceback.format_exc())


def _run(command: Command, trial: Trial, report: Report) -> None:
    """Run a trial's experiment, from its newest checkpoint if it has begun."""
    config, study = command.config(trial), command.study
    in_root = command.sweep.share_pretraining == "root"
    folder = (study.folder.parents[1] if in_root else study.folder) / "pretrained"
    is_federated = config.method.record.is_federated
    pretraining = pretrain_fingerprint(config) if is_federated else trial.trial_id
    is_whole = functools.partial(has_pretraining, config=config)
    shared = SharedPretraining(study, folder, pretraining, is_whole)
    watcher = _Watcher(command, trial, report, shared)
    tags = {"spire.kind": "trial", "spire.sweep": command.sweep.name}
    tags["spire.trial_id"] = trial.trial_id
    tags |= {f"axis.{key}": str(value) for key, value in trial.point.items()}
    actors = command.plan(trial).actors
    begun = study.run_dir(trial.trial_id)
    if begun is not None and is_deleted(begun, config.tracking):
        begun = None
    preset, parent = command.sweep.preset, command.parent_run_id
    try:
        pretrained = shared.acquire(command.check_goes_on)
        if begun is not None:
            reused = None if pretrained == begun else pretrained
            resume_experiment(begun, config, watcher, reused, preset, tags, actors)
            return
        if parent is not None:  # a process that was killed at its start left one
            drop_runs(config.tracking, {PARENT: parent, "spire.trial_id": trial.trial_id})
        run_experiment(config, preset, watcher, parent, pretrained, tags, actors)
    finally:
        shared.release()
