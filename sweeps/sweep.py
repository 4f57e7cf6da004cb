"""A sweep from its settings to its outcome. Read `run_sweep` first.

space -> points -> plan -> trials on Ray Tune, each of them `run_experiment` -> ledger -> outcome
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from pipeline.cluster.session import cluster_nodes, starting_cluster
from pipeline.config.build import flattened
from pipeline.config.data import DataConfig
from pipeline.config.schema import Config
from pipeline.config.tracking import TrackingConfig, tracking_root, tracking_uri
from pipeline.data.datasets import store_root
from pipeline.data.fetch import fetch_if_missing
from pipeline.data.resize import side
from pipeline.federation.setup import partitioned
from pipeline.tracking.tracker import check_store
from spire_core.evaluation.extractors import auto_extractor, make_extractor
from sweeps.design.config import SweepConfig
from sweeps.design.points import Trial, first_point, make_trial, probes
from sweeps.design.trial_plan import check_nodes, concurrency, plan_trial
from sweeps.execution.job import Job, Say
from sweeps.execution.ledger import Entry, Ledger, known_trials, undrawn
from sweeps.execution.parent_run import is_open, parent_run


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
