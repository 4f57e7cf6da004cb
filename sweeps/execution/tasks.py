"""Trials as tasks: a trial's configuration with its share of the cluster, for its own process."""

from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.config.schema import Config
from pipeline.config.tracking import tracking_root
from pipeline.runs.record import located
from sweeps.design.config import SweepConfig
from sweeps.design.points import Trial, TuneParams
from sweeps.design.trial_plan import TrialPlan, plan_trial
from sweeps.execution.trial import TrialTask


def placed(config: Config, base: Config) -> Config:
    """Return a trial's configuration with absolute paths, the base's data and its tracking."""
    config = located(config)
    return replace(config, data=replace(config.data, root=base.data.root), tracking=base.tracking)


@dataclass(frozen=True)
class TaskMaker:
    """The common settings of all trials of one command; travels to their processes.

    `folder` is that of the ledger, `at_once` the number of trials that share the cluster.
    """

    sweep: SweepConfig
    base: Config
    folder: Path
    parent_run_id: str | None
    cluster: dict[str, float]
    at_once: int

    def plan(self, trial: Trial) -> TrialPlan:
        """Return the resources that a trial asks of the cluster."""
        return plan_trial(trial.config, self.cluster, self.at_once, self.sweep.autoscaling)

    def task(self, trial: Trial, params: TuneParams) -> TrialTask:
        """Return the task of a trial that Tune starts with `params`."""
        varying = {f"axis.{key}": str(value) for key, value in trial.point.items()}
        tags = {"spire.kind": "trial", "spire.sweep": self.sweep.name}
        tags["spire.trial_id"] = trial.trial_id
        return TrialTask(
            trial.trial_id,
            self._config(trial),
            trial.preset,
            dict(params),
            str(self.folder),
            self.parent_run_id,
            self._pretrained(trial),
            tags | varying,
            self.plan(trial).actors,
            may_stop=self.sweep.scheduler == "asha",
        )

    def _config(self, trial: Trial) -> Config:
        """Return a trial's configuration with its run's name, in one process if that is planned."""
        config = placed(trial.config, self.base)
        config = replace(config, tracking=replace(config.tracking, run_name=trial.label))
        if self.plan(trial).actors is None:
            config = replace(config, resources=replace(config.resources, pool="local"))
        return config

    def _pretrained(self, trial: Trial) -> str | None:
        """Return the folder of pre-trainings that a trial shares with others, if it does."""
        if not trial.shares_pretraining:
            return None
        in_root = self.sweep.share_pretraining == "root"
        return str((tracking_root(self.base.tracking) if in_root else self.folder) / "pretrained")
