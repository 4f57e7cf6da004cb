"""One experiment, top to bottom: partition, pre-train, adapt the new clients, evaluate, track.

Read `run_experiment` first; the names that it uses, in order, are the data flow.
"""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from pipeline.checkpoint.remote import check_storage
from pipeline.clients.store import ClientStore
from pipeline.config.schema import Config
from pipeline.config.tracking import tracking_root
from pipeline.evaluation.diagnosis import divergence
from pipeline.evaluation.scores import RealData
from pipeline.experiment.adaptation import adapt, tune
from pipeline.experiment.pools import open_pool
from pipeline.experiment.pretraining import pretrain, try_on
from pipeline.experiment.reuse import take_over
from pipeline.experiment.watcher import Watcher
from pipeline.federation.pool import ClientPool
from pipeline.federation.setup import MANY_CLIENTS, Setting, prepare
from pipeline.files.atomic import room_for
from pipeline.results.diagnose import diagnose
from pipeline.results.files import write_result
from pipeline.results.recording import (
    log_adaptation,
    log_cross_losses,
    log_diagnoses,
    log_setting,
    log_summary,
    log_tuned,
    run_tags,
)
from pipeline.results.result import Result
from pipeline.runs.folder import run_lock
from pipeline.runs.layout import CLIENTS, MODEL
from pipeline.runs.model_files import save_run
from pipeline.runs.ownership import begun_here, refuse_links
from pipeline.runs.start import check_hashes, located, save_start
from pipeline.tracking.outbox import read_points
from pipeline.tracking.tracker import Tracker
from spire_core.errors import DivergenceError
from spire_core.network.flat_model import tensors_hash


def run_experiment(
    config: Config,
    preset: str | None,
    watcher: Watcher,
    parent_run_id: str | None = None,
    pretrained: Path | None = None,
    more_tags: Mapping[str, str] | None = None,
) -> Result:
    """Run one experiment end to end and return what it found; everything is tracked on the way.

    `parent_run_id` nests its tracking run below another; `more_tags` go beside the usual ones.
    `pretrained`: the folder of a run whose finished pre-training is taken over instead of doing the
    same once more; RunError if that was done with other settings.
    """
    check_storage(config.tracking)
    config = located(config)
    setting = prepare(config)
    tags = run_tags(setting, preset) | dict(more_tags or {})
    with (
        room_for(tracking_root(config.tracking)),
        Tracker.start(config.tracking, run_name(config), tags, parent_run_id) as tracker,
        run_lock(tracker.run_dir),
    ):
        save_start(tracker.run_dir, config, preset, setting.hashes)
        watcher.started(tracker.run_dir)
        log_setting(tracker, setting)
        result = _run(setting, tracker, watcher, pretrained)
        write_result(result, preset)  # before the store is told that the run has finished
        return result


def resume_experiment(
    run_dir: Path,
    config: Config,
    watcher: Watcher,
    pretrained: Path | None = None,
    preset: str | None = None,
) -> Result:
    """Go on with an interrupted run from its newest good checkpoint, to the same result.

    RunError if another process is at it, if a link is in its folder, or if its images are not those
    with which it began.
    """
    is_own = begun_here(run_dir, tracking_root(config.tracking)) is not None
    refuse_links(run_dir, is_own)
    with room_for(run_dir), run_lock(run_dir):
        check_storage(config.tracking)
        setting = prepare(config)
        check_hashes(run_dir, setting.hashes)
        with Tracker.resume(config.tracking, run_dir) as tracker:
            watcher.started(run_dir)
            if not read_points(run_dir):  # it may have ended before it told its settings
                log_setting(tracker, setting)
            result = _run(setting, tracker, watcher, pretrained)
            write_result(result, preset)
            return result


def _run(setting: Setting, tracker: Tracker, watcher: Watcher, pretrained: Path | None) -> Result:
    config = setting.config
    watcher.stage("starting the clients")
    with open_pool(setting, tracker.run_dir) as (pool, make_driver):
        measured = setting.eval_ids + setting.new_ids
        real = RealData.gather(pool, measured, setting.mixtures, config.eval, config.seed)
        result = Result(tracker.run_id, tracker.run_dir, setting, real)

        if pretrained is not None:
            take_over(result, tracker, pretrained)
        try:
            weights = pretrain(result, pool, make_driver, tracker, watcher)
        except DivergenceError as error:
            log_diagnoses(tracker, [divergence(error)])
            raise
        watcher.pretrained(tracker.run_dir)
        try_on(result, pool, weights)
        log_cross_losses(tracker, result)
        if config.scores_tuned:
            watcher.stage(f"fine-tuning {len(setting.eval_ids)} pre-training clients")
            tune(result, pool, weights)
            log_tuned(tracker, result)

        watcher.stage(f"adapting {len(setting.new_ids)} new clients")
        adapt(result, pool, weights)
        log_adaptation(tracker, result)

        save(result, pool, weights)
    result.diagnoses = diagnose(result)
    log_diagnoses(tracker, result.diagnoses)
    log_summary(tracker, result)
    return result


def run_name(config: Config) -> str:
    """Return the name under which a run is found in the tracking UI."""
    return config.tracking.run_name or f"{config.method.name}-{config.data.name}-s{config.seed}"


def exported_ids(setting: Setting, run_dir: Path) -> Sequence[int]:
    """Return the pre-training clients whose own parts are written: all that may hold any.

    In a large population those that took part: the others are a function of the seed.
    """
    if len(setting.train_ids) <= MANY_CLIENTS:
        return setting.train_ids
    seen = ClientStore(run_dir / CLIENTS).rounds_seen(setting.config.federation.num_rounds)
    return [client_id for client_id in seen if client_id in setting.train_ids]


def save(result: Result, pool: ClientPool, weights: np.ndarray) -> None:
    """Write backbone and clients' own parts to the run's folder; fingerprint all of it together."""
    setting, folder = result.setting, result.run_dir / MODEL
    more = {
        "image_shape": list(setting.images.shape[1:]),
        "class_names": list(setting.data.class_names),
        "partition_hash": setting.partition.hash,
    }
    save_run(folder, setting.config, setting.model, weights, more)
    ids = [*exported_ids(setting, result.run_dir), *setting.new_ids]
    hashes = pool.run_all("export", ids, folder)
    digest = hashlib.sha256(tensors_hash({"backbone": torch.tensor(weights)}).encode())
    for client_id, own in zip(ids, hashes, strict=True):
        digest.update(f"{client_id}:{own}".encode())
    result.state_fingerprint = digest.hexdigest()
