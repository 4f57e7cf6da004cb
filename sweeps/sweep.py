"""A sweep from its settings to its outcome. Read `run_sweep` first.

space -> points -> plan -> trials on Ray Tune, each of them `run_experiment` -> ledger -> outcome
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.datasets import DataConfig, store_root
from pipeline.fetch import fetch_if_missing
from pipeline.metric_names import final_name
from pipeline.ray_cluster import cluster_nodes, starting_cluster
from pipeline.resize import side
from pipeline.runs import (
    TrackingConfig,
    tracking_root,
    tracking_uri,
)
from pipeline.schema import Config
from pipeline.setting import partitioned
from pipeline.start_file import located
from pipeline.tracking import check_store
from pipeline.typed import flattened
from spire_core.extractor import auto_extractor, make_extractor
from sweeps.ledger import Entry, Ledger, known_trials, undrawn
from sweeps.parent_run import is_open, parent_run
from sweeps.plan import TrialPlan, check_nodes, concurrency, plan_trial
from sweeps.points import Trial, decoded, first_point, make_trial, probes, trials
from sweeps.space import SweepConfig
from sweeps.trial import TrialTask
from sweeps.tuning import Narrator, grid_of, optuna_of, run_trials

Say = Callable[[str], None]
Point = Mapping[str, Any]


@dataclass(frozen=True)
class Outcome:
    """What a sweep came to: its trials in order, and what is known of each that has begun."""

    sweep: SweepConfig
    tracking: TrackingConfig
    trials: list[Trial]
    entries: dict[str, Entry]
    ledger: Ledger
    num_skipped: int
    num_undrawn: int  # points that a search has still to draw

    @property
    def parent_run_id(self) -> str | None:
        """The id of the sweep's own run, once it has begun."""
        run_dir = self.ledger.parent_run_dir
        return None if run_dir is None else run_dir.name

    def status(self, trial: Trial) -> str:
        """Return finished, failed, stopped (by the scheduler) or unfinished."""
        entry = self.entries.get(trial.trial_id)
        return "unfinished" if entry is None or entry.status == "running" else entry.status

    def with_status(self, status: str) -> list[Trial]:
        """Return the trials of one status."""
        return [trial for trial in self.trials if self.status(trial) == status]


def run_sweep(sweep: SweepConfig, say: Say, retry_failed: bool = False) -> Outcome:
    """Run what is left of a sweep: finished trials are skipped, interrupted ones go on.

    Failed ones are tried again with `retry_failed` only. Every mistake is found before any trial
    starts: a wrong trial, a store that does not answer, a trial that could never fit.
    """
    base = base_config(sweep)
    tracking, ledger = base.tracking, Ledger.of(sweep, base.tracking)
    known = known_trials(sweep, ledger)
    before = ledger.entries(trial.trial_id for trial in known)
    left = [t for t in known if is_left(before.get(t.trial_id), retry_failed)]
    to_draw = undrawn(sweep, ledger)
    if left or to_draw:
        probed = left + (probes(sweep) if to_draw else [])
        with starting_cluster() as ready:  # meanwhile:
            check_data(probed, say)
            check_store(tracking)
            say(f"{len(left) + to_draw} of {len(known) + to_draw} trials to run")
            available = ready()
            at_once = concurrency(sweep, left + [probed[0]] * to_draw, available)
            for trial in probed:
                plan = plan_trial(trial.config, available, at_once, sweep.autoscaling)
                if not sweep.autoscaling:
                    check_nodes(plan, cluster_nodes())
            with parent_run(sweep, ledger, tracking) as parent_run_id:
                job = Job(sweep, base, ledger.folder, parent_run_id, dict(available), at_once)
                job.run(left, to_draw, max(t.config.federation.num_rounds for t in probed), say)
        known = known if sweep.search != "optuna" else known_trials(sweep, ledger)
    elif tracking.enabled and is_open(ledger.parent_run_dir):  # it was killed at its very end
        with parent_run(sweep, ledger, tracking):
            pass
    entries = ledger.entries(trial.trial_id for trial in known)
    num_skipped = sum(entry.status == "finished" for entry in before.values())
    return Outcome(sweep, tracking, known, entries, ledger, num_skipped, undrawn(sweep, ledger))


def is_left(entry: Entry | None, retry_failed: bool = False) -> bool:
    """Return whether a trial of which this is known is still to run."""
    return entry is None or entry.status == "running" or (entry.status == "failed" and retry_failed)


def base_config(sweep: SweepConfig) -> Config:
    """Return the configuration that the trials vary, tracked as an experiment of its own.

    Its paths and addresses are absolute: a trial runs in another directory, maybe elsewhere.
    """
    config = make_trial(sweep, first_point(sweep), sweep.seeds[0]).config
    tracking, named = config.tracking, "tracking.experiment" in flattened(sweep.settings)
    tracking = replace(
        tracking,
        root=str(tracking_root(tracking)),
        uri=tracking_uri(tracking) if tracking.enabled else None,
        experiment=tracking.experiment if named else sweep.name,
    )
    data = replace(config.data, root=str(store_root(config.data.root)))
    return replace(config, tracking=tracking, data=data)


def placed(config: Config, base: Config) -> Config:
    """Return a trial's configuration with absolute paths, the base's data and its tracking."""
    config = located(config)
    return replace(config, data=replace(config.data, root=base.data.root), tracking=base.tracking)


def check_data(planned: Sequence[Trial], say: Say) -> None:
    """Fetch missing data, and raise what is wrong with a trial's partition, images or extractor."""
    seen, widths = set(), dict[DataConfig, int]()
    for trial in planned:
        config = trial.config
        fetch_if_missing(config.data.name, config.data.root, config.data.path, say)
        part = (config.partition, config.federation.num_clients, config.federation.num_new_clients)
        stops_early = config.adapt.early_stopping and config.method.record.adapt_parts != ()
        key = (config.data, config.seed, config.adapt.num_images, stops_early, *part)
        if key not in seen:
            seen.add(key)
            widths[config.data] = partitioned(config)[0].images.shape[-1]
        config.model.check_image_size(side(widths[config.data], config.data.image_size))
        name, weights = config.eval.extractor, config.eval.extractor_weights
        scorer = (auto_extractor(config.data.name, name), weights)
        if scorer not in seen:
            seen.add(scorer)
            make_extractor(*scorer)


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
