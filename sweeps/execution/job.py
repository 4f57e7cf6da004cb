"""All trials of one sweep as one job on Ray Tune."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.config.schema import Config
from pipeline.config.tracking import tracking_root
from pipeline.results.metric_names import final_name
from pipeline.runs.start import located
from sweeps.design.config import SweepConfig
from sweeps.design.points import Trial, decoded, probes, trials
from sweeps.design.trial_plan import TrialPlan, plan_trial
from sweeps.execution.ledger import Ledger
from sweeps.execution.trial import TrialTask
from sweeps.execution.tune import Narrator, grid_of, optuna_of, run_trials

Say = Callable[[str], None]
Point = Mapping[str, Any]


def placed(config: Config, base: Config) -> Config:
    """Return a trial's configuration with absolute paths, the base's data and its tracking."""
    config = located(config)
    return replace(config, data=replace(config.data, root=base.data.root), tracking=base.tracking)


@dataclass(frozen=True)
class Job:
    """What all trials of one `run_sweep` have in common; travels to each of them."""

    sweep: SweepConfig
    base: Config
    folder: Path
    parent_run_id: str | None
    cluster: dict[str, float]
    at_once: int

    def run(self, left: Sequence[Trial], to_draw: int, max_rounds: int, say: Say) -> None:
        """Run the trials that are left, and write into the ledger what Tune alone knows."""
        sweep, ledger = self.sweep, Ledger(self.folder)
        by_id = {trial.trial_id: trial for trial in left}
        tasks = {t.trial_id: self.task(t, {"trial_id": t.trial_id}) for t in left}
        for trial in left:  # one that failed, or could not begin, is begun anew
            entry = ledger.read(trial.trial_id)
            if entry is not None and entry.error is not None:
                ledger.update(trial.trial_id, status="running", error=None)

        def trial_of(point: Point) -> Trial:
            if "trial_id" in point:
                return by_id[point["trial_id"]]
            [trial] = trials(sweep, [decoded(sweep, point)])
            return trial

        def task_of(point: Point) -> TrialTask:
            if "trial_id" in point:
                return tasks[point["trial_id"]]
            return self.task(trial_of(point), point)

        needs = self.plan((left or probes(sweep))[0])
        search, space, num_samples = None, grid_of([t.trial_id for t in left]), 1
        again: list[Point] = []  # points drawn before, which are not drawn anew
        if sweep.search == "optuna":
            drawn = {trial_of(point).trial_id: point for point in ledger.draws()}
            again = [drawn[trial_id] for trial_id in by_id]
            search, space = self._optuna(ledger, drawn, again), {}
            num_samples = len(again) + to_draw

        def note(point: Point) -> None:
            if point in again:
                again.remove(point)
            elif sweep.search == "optuna":
                ledger.add_draw(point)

        narrator = Narrator(say, lambda point: trial_of(point).label, needs.describe(), note)
        try:
            lost = run_trials(
                sweep,
                space,
                search,
                make_task=task_of,
                make_plan=lambda point: self.plan(trial_of(point)),
                narrator=narrator,
                at_once=self.at_once,
                num_samples=num_samples,
                max_rounds=max_rounds,
                folder=self.folder,
            )
            for trial_id, error in lost.items():
                entry = ledger.read(trial_id)
                # With a result it was lost after it had finished; with an error, which its own
                # process wrote, only the store kept it from beginning.
                if entry is None or (entry.result is None and entry.error is None):
                    ledger.update(trial_id, status="failed", error=error)
        finally:
            for trial_id in {trial_of(point).trial_id for point in narrator.ended}:
                entry = ledger.read(trial_id)
                if entry is not None and entry.status == "running":  # the scheduler stopped it
                    ledger.update(trial_id, status="stopped")

    def plan(self, trial: Trial) -> TrialPlan:
        """Return what a trial asks of the cluster."""
        return plan_trial(trial.config, self.cluster, self.at_once, self.sweep.autoscaling)

    def task(self, trial: Trial, point: Point) -> TrialTask:
        """Return what the process of a trial is told."""
        sweep = self.sweep
        varying = {f"axis.{key}": str(value) for key, value in trial.point.items()}
        tags = {"spire.kind": "trial", "spire.sweep": sweep.name, "spire.trial_id": trial.trial_id}
        config, plan = placed(trial.config, self.base), self.plan(trial)
        config = replace(config, tracking=replace(config.tracking, run_name=trial.label))
        if plan.actors is None:
            resources = replace(config.resources, pool="local")
        else:  # its group holds these and no more
            held = {"num_actors": plan.actors.num_actors, "num_gpus": plan.actors.num_gpus}
            resources = replace(config.resources, **held)
        config = replace(config, resources=resources)
        return TrialTask(
            trial.trial_id,
            config,
            trial.preset,
            dict(point),
            str(self.folder),
            self.parent_run_id,
            self._pretrained(trial),
            tags | varying,
            sweep.scheduler == "asha",
        )

    def _pretrained(self, trial: Trial) -> str | None:
        """Return the folder of pre-trainings that a trial shares with others, if it does."""
        if not trial.shares_pretraining:
            return None
        in_root = self.sweep.share_pretraining == "root"
        return str((tracking_root(self.base.tracking) if in_root else self.folder) / "pretrained")

    def _optuna(self, ledger: Ledger, drawn: Mapping[str, Point], again: Sequence[Point]) -> Any:
        found = []
        for trial_id, entry in ledger.entries(drawn).items():
            value = metric_of(self.sweep, (entry.result or {}).get("metrics", {}))
            if value is not None and math.isfinite(value):
                found.append((dict(drawn[trial_id]), value))
        return optuna_of(self.sweep, found, [dict(point) for point in again])


def metric_of(sweep: SweepConfig, metrics: Mapping[str, float]) -> float | None:
    """Return a finished trial's value of the sweep's metric; of a round's, after the last one."""
    return metrics.get(sweep.metric, metrics.get(final_name(sweep.metric)))
