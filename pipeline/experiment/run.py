"""One experiment, top to bottom: partition, pre-train, adapt the new clients, evaluate, track.

`_run` is the data flow: each stage takes the records that it needs and returns one.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from pipeline.checkpoint.remote import check_storage
from pipeline.cluster.actor_plan import ActorPlan
from pipeline.config.schema import Config
from pipeline.evaluation.controls import MAX_OLD
from pipeline.evaluation.diagnosis import diagnose
from pipeline.evaluation.scores import RealData
from pipeline.experiment.adaptation import (
    adapt,
    cross_client_losses,
    finetune_clients,
    image_controls,
    with_mean_layers,
)
from pipeline.experiment.export import export_models
from pipeline.experiment.pools import open_pool
from pipeline.experiment.pretraining import pretrain
from pipeline.experiment.reuse import reuse_pretraining, with_participants
from pipeline.experiment.watcher import Watcher
from pipeline.federation.setup import FederationSetup, prepare
from pipeline.files.paths import REVISION, git_revision
from pipeline.results import recording
from pipeline.results.files import write_result
from pipeline.results.metrics import summary_metrics
from pipeline.results.result import Result
from pipeline.runs.noise_key import drop_noise_key, keep_noise_key
from pipeline.runs.record import check_same, located, run_lock, save_start
from pipeline.tracking.outbox import read_points
from pipeline.tracking.tracker import Tracker
from spire_core.config.privacy import refuse_label


def run_experiment(
    config: Config,
    preset: str | None,
    watcher: Watcher,
    parent_run_id: str | None = None,
    pretrained: Path | None = None,
    extra_tags: Mapping[str, str] | None = None,
    actors: ActorPlan | None = None,
    name: str | None = None,
) -> Result:
    """Run one experiment end to end, track all of it, and return its result.

    `name`: of the run and of its folder, which otherwise has the run's id. `parent_run_id` nests
    its tracking run below another. `extra_tags` go beside the usual ones. `pretrained`: the folder
    of a run whose finished pre-training is reused. Raises RunError if that has other settings.
    `actors`: what the cluster holds for it already, in place of a plan.
    """
    check_storage(config.tracking)
    refuse_label(config.privacy)
    given, config = config.privacy, without_key(located(config))
    setting = prepare(config)
    tags = recording.run_tags(setting, preset) | dict(extra_tags or {})
    told = name or f"{config.method.name}-{config.data.name}-s{config.seed}"
    with (
        Tracker.start(
            config.tracking, told, tags, parent_run_id, is_named=name is not None
        ) as tracker,
        run_lock(tracker.run_dir),
    ):
        keep_noise_key(tracker.run_dir, given)  # before the start, after which none is made
        save_start(tracker.run_dir, config, preset, setting.hashes)
        setting = with_participants(setting, tracker.run_dir, pretrained)
        watcher.started(tracker.run_dir)
        recording.log_setting(tracker, setting, tags)
        return _run(setting, preset, tracker, watcher, pretrained, actors)


def resume_experiment(
    run_dir: Path,
    config: Config,
    watcher: Watcher,
    pretrained: Path | None = None,
    preset: str | None = None,
    extra_tags: Iterable[str] = (),
    actors: ActorPlan | None = None,
    is_anew: bool = False,
) -> Result:
    """Resume an interrupted run from its newest good checkpoint; the result is the same.

    `extra_tags`: the names of its tags beside the usual ones; `actors` as in `run_experiment`;
    `is_anew` as `Tracker.resume` says. Raises RunError if another process runs it, if its store
    does not know it, or if its images, its extractor or the code's numbers have changed since its
    start.
    """
    with run_lock(run_dir):
        check_storage(config.tracking)
        keep_noise_key(run_dir, config.privacy)
        setting = prepare(without_key(config))
        check_same(run_dir, setting.hashes)
        setting = with_participants(setting, run_dir, pretrained)
        with Tracker.resume(config.tracking, run_dir, is_anew) as tracker:
            watcher.started(run_dir)
            tracker.log_tags({REVISION: git_revision()})  # its scores are this code's
            if not read_points(run_dir):  # it may have ended before it recorded its settings
                recording.log_setting(tracker, setting, extra_tags)
            return _run(setting, preset, tracker, watcher, pretrained, actors)


def _run(
    setting: FederationSetup,
    preset: str | None,
    tracker: Tracker,
    watcher: Watcher,
    pretrained: Path | None,
    actors: ActorPlan | None,
) -> Result:
    config, run_dir = setting.config, tracker.run_dir
    watcher.stage("starting the clients")
    with open_pool(setting, run_dir, actors) as (pool, make_driver):
        real = RealData.gather(pool, setting)
        if pretrained is not None:
            reuse_pretraining(pretrained, setting, real, tracker)
        pretraining = pretrain(setting, real, pool, make_driver, tracker, watcher)
        weights, evaluations = pretraining.weights, pretraining.evaluations
        watcher.pretrained(run_dir)

        cross_losses = cross_client_losses(setting, pool, weights, run_dir)
        if cross_losses is not None:
            recording.log_cross_losses(tracker, cross_losses)
        if config.has_controls and evaluations:
            controls = image_controls(
                setting, pool, pool.share(weights), setting.eval_ids[:MAX_OLD]
            )
            pretraining = replace(pretraining, controls=tuple(controls))
            recording.log_old_controls(tracker, pretraining, real)
        tuned = None
        if config.scores_tuned:
            watcher.stage(f"fine-tuning {len(setting.eval_ids)} pre-training clients")
            tuned = finetune_clients(setting, real, pool, weights)
            recording.log_tuned(tracker, tuned, real)
        watcher.stage(f"adapting {len(setting.new_ids)} new clients")
        pretraining = with_mean_layers(setting, pool, pretraining)
        adaptation = adapt(setting, real, pool, pretraining)
        recording.log_adaptation(tracker, setting, real, adaptation)

        state_fingerprint = export_models(setting, pool, pretraining.weights, run_dir)

    losses, reports = pretraining.losses, adaptation.reports
    diagnoses = diagnose(setting, real, losses, evaluations, cross_losses, reports)
    recording.log_diagnoses(tracker, diagnoses)
    metrics = summary_metrics(setting, real, pretraining, tuned, adaptation)
    recording.log_summary(tracker, setting, metrics, state_fingerprint)
    result = Result(
        run_id=tracker.run_id,
        run_dir=run_dir,
        setting=setting,
        real=real,
        pretraining=pretraining,
        cross_losses=cross_losses,
        tuned=tuned,
        adaptation=adaptation,
        diagnoses=diagnoses,
        metrics=metrics,
        state_fingerprint=state_fingerprint,
    )
    recording.log_note(tracker, result, preset)
    write_result(result, preset)  # before the run counts as finished in the store
    drop_noise_key(run_dir)
    return result


def without_key(config: Config) -> Config:
    """Return a configuration to be stored and sent, with the label of a given noise key."""
    return replace(config, privacy=config.privacy.labelled())
