"""A sweep from its settings to its outcome. Read `run_sweep` first.

settings -> points -> trials -> plan -> Ray Tune, each trial a `run_experiment` -> runs -> outcome
"""

import math
import uuid
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean

from filelock import FileLock

from pipeline.cluster.session import cluster, cluster_nodes
from pipeline.config.load import flattened, load_config, write_value
from pipeline.config.plugins import check_reachable
from pipeline.config.schema import Config
from pipeline.config.tracking import TrackingConfig, tracking_root, tracking_uri
from pipeline.data.datasets import store_root
from pipeline.data.fetch import fetch_for
from pipeline.federation.setup import prepare, setup_key
from pipeline.runs.record import located
from pipeline.tracking.mlflow_queries import NOTE, NOTE_CHARS
from pipeline.tracking.tracker import Status, Tracker, check_store, has_ended, is_deleted
from sweeps.design.config import SweepConfig, labelled
from sweeps.design.points import Trial, check_compared, check_effects, probes, trials
from sweeps.design.trial_plan import concurrency, plan_trial
from sweeps.execution.search import read_search
from sweeps.execution.study import Progress, Study, progress_of
from sweeps.execution.trial import Command
from sweeps.execution.tune import run_trials

Say = Callable[[str], None]


@dataclass(frozen=True)
class Outcome:
    """The state of a sweep at the end of a command, and at its beginning."""

    sweep: SweepConfig
    tracking: TrackingConfig
    study: Study
    before: Progress
    after: Progress


def run_sweep(sweep: SweepConfig, say: Say, retry_failed: bool = False) -> Outcome:
    """Run the trials that are left: finished ones are skipped, interrupted ones go on.

    Failed ones run again with `retry_failed` only. Every mistake is raised before any trial starts:
    a wrong trial, a store that does not answer, a trial that could never fit.
    """
    base = base_config(sweep)
    study = Study.of(sweep, base.tracking)
    before = read_progress(sweep, study)
    left = before.left(retry_failed)
    parent, after = study.parent_run_dir, before
    if left or before.num_undrawn:
        after = _run_left(sweep, base, study, before, left, say)
    elif base.tracking.enabled and parent is not None and not has_ended(parent):
        check_store(base.tracking)  # it was killed at its very end
        with _parent_tracker(sweep, study, base.tracking) as tracker:
            study.end_trials(base.tracking)
            tracker.finish(_last_status(before))
    return Outcome(sweep, base.tracking, study, before, after)


def _run_left(
    sweep: SweepConfig,
    base: Config,
    study: Study,
    before: Progress,
    left: Sequence[Trial],
    say: Say,
) -> Progress:
    """Run these trials, and those that are still to be drawn."""
    # 1. Check.
    probed = check_trials(sweep, before, left, is_new=study.parent_run_dir is None)
    check_data(probed, say, begins=study.parent_run_dir is None)
    check_store(base.tracking)
    if told := told_equal(sweep, before.num_trials):
        say(told)
    say(f"{len(left) + before.num_undrawn} of {before.num_trials} trials to run")
    with cluster():
        # 2. Plan.
        nodes = cluster_nodes()
        at_once = concurrency(sweep, [*left, *[probed[0]] * before.num_undrawn], nodes)
        for trial in probed:
            plan_trial(trial.config, nodes, at_once, sweep.autoscaling)
        # 3. Run, below the sweep's own tracking run.
        study.folder.mkdir(parents=True, exist_ok=True)
        for trial in left:
            study.trial_file(trial.trial_id, "error.txt").unlink(missing_ok=True)
        with _parent_tracker(sweep, study, base.tracking) as tracker:
            command = Command(
                sweep=sweep,
                study=study,
                listed={trial.trial_id: trial for trial in left},
                tracking=base.tracking,
                data_root=str(base.data.root),
                typed_in=str(Path.cwd()),
                parent_run_id=None if tracker.uri is None else tracker.run_id,
                nodes=nodes,
                at_once=at_once,
                stop=study.folder / f"stop-{uuid.uuid4().hex}",
            )
            max_rounds = max(trial.config.federation.num_rounds for trial in probed)
            try:
                run_trials(command, before, max_rounds, say)
            finally:
                study.end_trials(base.tracking)
            after = read_progress(sweep, study)
            if scores := after.scores():
                best = min(scores) if sweep.mode == "min" else max(scores)
                told = {f"best/{sweep.metric}": best, f"mean/{sweep.metric}": fmean(scores)}
                tracker.log_metrics(told, step=len(scores))
            tracker.finish(_last_status(after))
    return after


def read_progress(sweep: SweepConfig, study: Study) -> Progress:
    """Return how far a sweep is; ConfigError if the configuration of a trial is wrong."""
    return read_search(sweep, study) if sweep.is_drawn else progress_of(sweep, study, trials(sweep))


def told_equal(sweep: SweepConfig, num_trials: int) -> str:
    """Return how many combinations of a grid are no trials of their own, in words."""
    num_all = math.prod(map(len, sweep.axes.values())) * len(sweep.seeds)
    if sweep.is_drawn or num_all == num_trials:
        return ""
    return f"{num_all - num_trials} of {num_all} trials are equal to others: {num_trials} run"


def check_trials(
    sweep: SweepConfig, progress: Progress, left: Sequence[Trial], is_new: bool
) -> list[Trial]:
    """Return the trials in which a mistake of those that are left would show.

    Raises ConfigError for one, and for a comparison that a new sweep cannot have.
    """
    probed = [*left, *(probes(sweep) if progress.num_undrawn else [])]
    if is_new:
        check_effects(probed)
        check_compared(sweep)
    return probed


def base_config(sweep: SweepConfig) -> Config:
    """Return the preset with what all trials share: the data's root, and where they are tracked.

    Its paths and addresses are absolute, because a trial runs in another directory. The experiment
    has the sweep's name, unless it has another.
    """
    settings = flattened(sweep.settings)
    shared = {k: v for k, v in settings.items() if k.startswith(("tracking.", "data.root"))}
    config = load_config(sweep.preset, [f"{k}={write_value(v)}" for k, v in shared.items()])
    tracking = config.tracking
    tracking = replace(
        tracking,
        root=str(tracking_root(tracking)),
        uri=tracking_uri(tracking) if tracking.enabled else None,
        experiment=shared.get("tracking.experiment", sweep.name),
    )
    data = replace(config.data, root=str(store_root(config.data.root)))
    return replace(config, tracking=tracking, data=data)


def check_data(planned: Sequence[Trial], say: Say, begins: bool = True) -> None:
    """Fetch missing data; raise what is wrong with the data or the model of any trial."""
    configs = [located(trial.config) for trial in planned]
    for config in configs:
        check_reachable(config)
        fetch_for(config.data, say, begins)
    for config in {setup_key(config): config for config in configs}.values():
        prepare(config)


def _parent_tracker(sweep: SweepConfig, study: Study, tracking: TrackingConfig) -> Tracker:
    """Return the tracker of the sweep's own run, begun if there is none or it was deleted."""
    tracking = replace(tracking, log_model=False, run_name=None)
    with FileLock(study.folder / "lock"):  # of two commands that begin together one begins it
        run_dir = study.parent_run_dir
        if run_dir is not None and not is_deleted(run_dir, tracking):
            return Tracker.resume(tracking, run_dir)
        tags = {"spire.kind": "sweep", "spire.sweep": sweep.name, "preset": sweep.preset}
        tags[NOTE] = f"**{sweep.name}**\n\n{sweep.question}"[:NOTE_CHARS]  # a report replaces it
        tracker = Tracker.start(tracking, sweep.name, tags, kind="sweep")
        tracker.log_dict(labelled(asdict(sweep)), "config/sweep.yaml")
        if not sweep.is_drawn:  # comparisons count these trials, whatever is added later
            ids = [trial.trial_id for trial in trials(sweep)]
            tracker.log_dict({"trial_ids": ids}, "config/trials.yaml")
        study.write_run(study.folder / "run", tracker.run_dir)  # last: its file is there then
        return tracker


def _last_status(progress: Progress) -> Status:
    """Return the status with which a sweep's own run ends: that of this command's trials."""
    if progress.num_undrawn or progress.with_status("unfinished"):
        return "KILLED"
    return "FAILED" if progress.with_status("failed") else "FINISHED"
