"""One trial in its own process: an experiment that begins or resumes, with its outcome on disk."""

import functools
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.config.load import flattened, overridden, write_value
from pipeline.config.meaning import pretrain_fingerprint
from pipeline.config.schema import Config
from pipeline.config.tracking import TrackingConfig
from pipeline.evaluation.scores import Evaluation
from pipeline.experiment.reuse import has_pretraining
from pipeline.experiment.run import resume_experiment, run_experiment
from pipeline.experiment.watcher import Watcher
from pipeline.federation.driver import Driver
from pipeline.files.paths import expanded
from pipeline.results.metric_names import ROUND_METRICS, final_name
from pipeline.runs.record import located
from pipeline.tracking.mlflow_session import PARENT
from pipeline.tracking.tracker import drop_runs, is_deleted
from spire_core.errors import BusyError, ClusterError, SpireError
from sweeps.design.config import SweepConfig
from sweeps.design.points import Trial, TuneParams, trial_of
from sweeps.design.trial_plan import TrialPlan, plan_trial
from sweeps.execution.shared_pretraining import SharedPretraining
from sweeps.execution.study import Study

Report = Callable[[dict[str, Any]], None]
PATHS = ("data.path", "eval.extractor_weights", "model.backbone", "model.text_encoder")


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
    cluster: dict[str, float]
    at_once: int
    stop: Path

    def trial(self, params: TuneParams) -> Trial:
        """Return the trial that Tune starts with these parameters: an id, or a draw."""
        is_drawn = self.sweep.is_drawn
        return trial_of(self.sweep, params) if is_drawn else self.listed[params["trial_id"]]

    def plan(self, trial: Trial) -> TrialPlan:
        """Return the resources that a trial asks of the cluster."""
        return plan_trial(trial.config, self.cluster, self.at_once, self.sweep.autoscaling)

    def config(self, trial: Trial) -> Config:
        """Return a trial's configuration for its process, which has another directory."""
        values = flattened(trial.config.as_dict())
        paths = {key: Path(self.typed_in, expanded(values[key])) for key in PATHS if values[key]}
        words = [f"{key}={write_value(str(path))}" for key, path in paths.items()]
        config = located(overridden(trial.config, words))
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


class _Watcher(Watcher):
    """Writes down the trial's run, reports every evaluation, and ends the run when it is to end."""

    def __init__(
        self, command: Command, trial: Trial, report: Report, shared: SharedPretraining | None
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
        if self.shared is not None:
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
                command.report_to(report, after, _numbers(result["metrics"]))
        except KeyboardInterrupt:  # the same command goes on with it
            return
        except (ClusterError, BusyError):  # a store, an actor, another process: Ray tries again
            raise
        except Exception as error:
            sentence = str(error) if isinstance(error, SpireError) else repr(error)
            study.fail(trial_id, sentence, traceback.format_exc())


def _numbers(metrics: dict[str, Any]) -> dict[str, Any]:
    """Return final numbers; those of the last round also under the names that rounds use."""
    last = {n: metrics[final_name(n)] for n in ROUND_METRICS if final_name(n) in metrics}
    return last | metrics


def _run(command: Command, trial: Trial, report: Report) -> None:
    """Run a trial's experiment, from its newest checkpoint if it has begun."""
    config, study = command.config(trial), command.study
    shared = None
    if trial.shares_pretraining:
        in_root = command.sweep.share_pretraining == "root"
        folder = (study.folder.parents[1] if in_root else study.folder) / "pretrained"
        is_whole = functools.partial(has_pretraining, config=config)
        shared = SharedPretraining(study, folder, pretrain_fingerprint(config), is_whole)
    watcher = _Watcher(command, trial, report, shared)
    tags = {"spire.kind": "trial", "spire.sweep": command.sweep.name}
    tags["spire.trial_id"] = trial.trial_id
    tags |= {f"axis.{key}": str(value) for key, value in trial.point.items()}
    actors = command.plan(trial).actors
    begun = study.run_dir(trial.trial_id)
    if begun is not None and is_deleted(begun, config.tracking):
        begun = None
    try:
        pretrained = None if shared is None else shared.acquire(command.check_goes_on)
        if begun is not None:
            reused = None if pretrained == begun else pretrained
            resume_experiment(
                begun, config, watcher, reused, trial.preset, extra_tags=tags, actors=actors
            )
            return
        if command.parent_run_id is not None:  # a process that was killed at its start left one
            ours = {PARENT: command.parent_run_id, "spire.trial_id": trial.trial_id}
            drop_runs(config.tracking, ours)
        parent = command.parent_run_id
        run_experiment(config, trial.preset, watcher, parent, pretrained, tags, actors)
    finally:
        if shared is not None:
            shared.release()
