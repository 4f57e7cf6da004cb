"""A sweep from its settings to its outcome. Read `run_sweep` first.

settings -> points -> trials -> plan -> Ray Tune, each trial a `run_experiment` -> ledger -> outcome
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from pipeline.cluster.session import cluster, cluster_nodes
from pipeline.config.load import flattened
from pipeline.config.plugins import check_reachable
from pipeline.config.schema import Config
from pipeline.config.tracking import TrackingConfig, tracking_root, tracking_uri
from pipeline.data.datasets import store_root
from pipeline.data.fetch import check_source, fetch_if_missing
from pipeline.federation.setup import check_drawing, prepare, setup_key
from pipeline.runs.start import located
from pipeline.tracking.tracker import check_store
from sweeps.design.config import SweepConfig
from sweeps.design.effect import check_effects
from sweeps.design.points import Trial, first_point, make_trial, probes
from sweeps.design.trial_plan import check_nodes, concurrency, plan_trial
from sweeps.execution.ledger import Ledger
from sweeps.execution.parent_run import is_open, parent_run
from sweeps.execution.progress import Progress, read_progress
from sweeps.execution.source import trial_source
from sweeps.execution.tasks import TaskMaker
from sweeps.execution.tune import Say, run_trials


@dataclass(frozen=True)
class Outcome:
    """The state of a sweep at the end of a command, and at its beginning."""

    sweep: SweepConfig
    tracking: TrackingConfig
    ledger: Ledger
    before: Progress
    after: Progress

    @property
    def parent_run_id(self) -> str | None:
        """The id of the sweep's own run, once it has begun."""
        run_dir = self.ledger.parent_run_dir
        return None if run_dir is None else run_dir.name

    @property
    def num_skipped(self) -> int:
        """How many trials were finished before."""
        return len(self.before.with_status("finished"))


def run_sweep(
    sweep: SweepConfig,
    say: Say,
    retry_failed: bool = False,
    recorded: SweepConfig | None = None,
) -> Outcome:
    """Run the trials that are left: finished ones are skipped, interrupted ones go on.

    Failed ones run again with `retry_failed` only. A sweep that begins here is `recorded` as
    `load_study` says. Every mistake is raised before any trial starts: a wrong trial, a store that
    does not answer, a trial that could never fit.
    """
    base = base_config(sweep)
    ledger = Ledger.of(sweep, base.tracking)
    before = read_progress(sweep, ledger)
    left = before.left(retry_failed)
    if left or before.num_undrawn:
        _run_left(sweep, base, ledger, before, left, say, recorded)
    elif base.tracking.enabled and is_open(ledger.parent_run_dir):  # killed at its very end
        check_store(base.tracking)
        with parent_run(sweep, ledger, base.tracking, recorded):
            pass
    return Outcome(sweep, base.tracking, ledger, before, read_progress(sweep, ledger))


def _run_left(
    sweep: SweepConfig,
    base: Config,
    ledger: Ledger,
    before: Progress,
    left: Sequence[Trial],
    say: Say,
    recorded: SweepConfig | None,
) -> None:
    """Run these trials, and those that are still to be drawn."""
    probed = [*left, *(probes(sweep) if before.num_undrawn else [])]
    for trial in probed:
        check_reachable(trial.config)
    if ledger.is_new:
        check_effects(probed)
    # 1. Check.
    check_data(probed, say, begins=ledger.parent_run_dir is None)
    check_store(base.tracking)
    say(f"{len(left) + before.num_undrawn} of {before.num_trials} trials to run")
    with cluster() as have:
        # 2. Plan.
        at_once = concurrency(sweep, [*left, *[probed[0]] * before.num_undrawn], have)
        check_room(sweep, probed, have, at_once)
        # 3. Run, below the sweep's own tracking run.
        with parent_run(sweep, ledger, base.tracking, recorded) as parent_run_id:
            here = sweep.located()  # its trials are made in their own processes, in other folders
            maker = TaskMaker(here, base, ledger.folder, parent_run_id, dict(have), at_once)
            source = trial_source(maker, left, before.num_undrawn)
            ledger.reopen(trial.trial_id for trial in left)
            max_rounds = max(trial.config.federation.num_rounds for trial in probed)
            run_trials(source, at_once, max_rounds, ledger.folder, say)


def check_room(
    sweep: SweepConfig, planned: Sequence[Trial], have: Mapping[str, float], at_once: int
) -> None:
    """Raise ClusterError for a trial that could never fit on the cluster."""
    for trial in planned:
        plan = plan_trial(trial.config, have, at_once, sweep.autoscaling)
        if not sweep.autoscaling:
            check_nodes(plan, cluster_nodes())


def base_config(sweep: SweepConfig) -> Config:
    """Return the configuration that the trials vary, tracked as an experiment of its own.

    Its paths and addresses are absolute, because a trial runs in another directory.
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


def check_data(planned: Sequence[Trial], say: Say, begins: bool = True) -> None:
    """Fetch missing data; raise what is wrong with the data or the model of any trial."""
    seen = set()
    for trial in planned:
        config = located(trial.config)
        check_source(config.data.name, config.data.path, begins)
        fetch_if_missing(config.data.name, config.data.root, config.data.path, say)
        check_drawing(config)
        key = setup_key(config)
        if key not in seen:
            seen.add(key)
            prepare(config)
