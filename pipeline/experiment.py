"""One experiment, top to bottom: partition, pre-train, adapt the new clients, evaluate, track.

Read `run_experiment` first; the names that it uses, in order, are the data flow.
"""

import hashlib
import itertools
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import Tensor

from pipeline.adaptation import adapt_clients
from pipeline.client_store import CLIENTS, ClientStore
from pipeline.diagnosis import Diagnosis, diagnose, divergence
from pipeline.disk import room_for
from pipeline.driver import Driver, Rounds, RoundStats
from pipeline.evaluation import (
    Evaluation,
    RealData,
    cross_client_losses,
    cross_client_matrix,
    evaluate_pretraining,
    evaluate_tuned,
    pooled_features,
)
from pipeline.evaluation_store import load_evaluations, rewind_evaluations, save_evaluation
from pipeline.footprint import peak_bytes
from pipeline.forgetting import ForgettingCurve, forgetting_curve
from pipeline.messages import AdaptReport
from pipeline.open_pool import MakeDriver, open_pool
from pipeline.outbox import read_points
from pipeline.pool import ClientPool
from pipeline.pretraining import (
    Checkpointer,
    copy_pretraining,
    go_back,
    is_checkpoint_due,
    pretraining_points,
)
from pipeline.profiling import profiled_rounds, watched
from pipeline.record import (
    log_adaptation,
    log_cross_losses,
    log_diagnoses,
    log_evaluation,
    log_profile,
    log_setting,
    log_summary,
    log_tuned,
    run_tags,
)
from pipeline.run_files import held
from pipeline.runs import tracking_root
from pipeline.saved_run import save_run
from pipeline.schema import Config, FederationConfig
from pipeline.setting import MANY_CLIENTS, Setting, prepare
from pipeline.start_file import save_start
from pipeline.storage import check_storage, mirror_of
from pipeline.tracking import Tracker
from spire_core.adapt import AdaptConfig
from spire_core.errors import DivergenceError
from spire_core.flat import initial_weights, tensors_hash
from spire_core.grouped import can_group
from spire_core.kid import kid
from spire_core.secure_sum import unmask_sum
from spire_core.server import ServerState

if TYPE_CHECKING:
    from pipeline.ray_pool import RemoteDriver

logger = logging.getLogger(__name__)
POOLED_IMAGES = 1000  # of the pre-training population, for forgetting
CROSS_CLIENTS = 8  # that try on each other's parts


class Watcher(Protocol):
    """Is told what happens, as it happens: a progress bar, or nothing."""

    def started(self, run_dir: Path) -> None: ...

    def stage(self, text: str) -> None: ...

    def round_done(self, stats: RoundStats, num_rounds: int) -> None: ...

    def evaluated(self, evaluation: Evaluation, floor: float) -> None: ...

    def pretrained(self, run_dir: Path) -> None: ...


@dataclass
class Result:
    """What an experiment found out, and where it lies."""

    run_id: str
    run_dir: Path
    setting: Setting
    real: RealData
    evaluations: list[Evaluation] = field(default_factory=list)
    reports: list[AdaptReport] = field(default_factory=list)
    curves: list[ForgettingCurve] = field(default_factory=list)
    matrix: np.ndarray | None = None
    cross_ids: list[int] = field(default_factory=list)
    cross_losses: np.ndarray | None = None  # of these clients, `cross_client_losses`
    tuned: Evaluation | None = None  # of pre-training clients after fine-tuning, see `tune`
    diagnoses: list[Diagnosis] = field(default_factory=list)
    metrics: dict[str, float] = field(default_factory=dict)
    state_fingerprint: str = ""


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
    setting = prepare(config)
    tags = run_tags(setting, preset) | dict(more_tags or {})
    with (
        room_for(tracking_root(config.tracking)),
        Tracker.start(config.tracking, run_name(config), tags, parent_run_id) as tracker,
        held(tracker.run_dir),
    ):
        save_start(tracker.run_dir, config, preset)
        watcher.started(tracker.run_dir)
        log_setting(tracker, setting)
        return _run(setting, tracker, watcher, pretrained)


def resume_experiment(
    run_dir: Path, config: Config, watcher: Watcher, pretrained: Path | None = None
) -> Result:
    """Go on with an interrupted run from its newest good checkpoint, to the same result.

    RunError if another process is at it.
    """
    with room_for(run_dir), held(run_dir):
        check_storage(config.tracking)
        setting = prepare(config)
        with Tracker.resume(config.tracking, run_dir) as tracker:
            watcher.started(run_dir)
            if not read_points(run_dir):  # it may have ended before it told its settings
                log_setting(tracker, setting)
            return _run(setting, tracker, watcher, pretrained)


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
        if config.method.record.can_tune and config.adapt.tune_epochs:
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


def take_over(result: Result, tracker: Tracker, source: Path) -> None:
    """Copy another run's finished pre-training into this one, with its record."""
    config = result.setting.config
    copy_pretraining(source, result.run_dir, config, result.setting.train_ids)
    tracker.log_points(pretraining_points(source))
    rewind_evaluations(result.run_dir, config.federation.num_rounds)  # a damaged one is done again
    for evaluation in load_evaluations(result.run_dir, config.federation.num_rounds):
        log_evaluation(tracker, evaluation, result.real)


def pretrain(
    result: Result, pool: ClientPool, make_driver: MakeDriver, tracker: Tracker, watcher: Watcher
) -> np.ndarray:
    """Run the rounds, with evaluations now and then; return the backbone (P,) that clients get.

    Goes on from the run's newest checkpoint, if there is one.
    """
    setting, config, run_dir = result.setting, result.setting.config, result.run_dir
    shape = setting.images.shape
    initial = initial_weights(config.model, config.method, shape[1], config.seed).numpy()
    if not config.method.record.is_federated:
        return initial
    state = go_back(run_dir, config) or ServerState.initial(initial)
    if 0 < state.round_idx < config.federation.num_rounds:
        tracker.log_tags({"spire.resumed_after_round": str(state.round_idx)})
    result.evaluations = load_evaluations(run_dir, state.round_idx)
    rounds = Rounds.of(config, setting.partition.train_sizes, setting.model.layout)
    driver = make_driver(pool, state, rounds)
    if config.client.engine == "grouped" and not can_group(config.model):
        logger.warning("client.engine=grouped is computed as loop: this U-Net has model.dropout")
    watcher.stage(f"pre-training on {config.federation.num_clients} clients")
    run_rounds(result, pool, driver, state.round_idx, tracker, watcher)
    log_profile(tracker, run_dir)
    weights = driver.model_weights()
    driver.close()
    return weights


def run_rounds(
    result: Result,
    pool: ClientPool,
    driver: "Driver | RemoteDriver",
    first: int,
    tracker: Tracker,
    watcher: Watcher,
) -> None:
    """Run the rounds from `first` on, with evaluations and checkpoints when they are due."""
    config, num_logged = result.setting.config, first
    track_s = 0.0  # is known when a round has been recorded, hence told with the next one
    num_rounds = config.federation.num_rounds
    due = evaluation_rounds(num_rounds, config.eval.every)
    due -= {e.round_idx for e in result.evaluations}
    profiled = profiled_rounds(first, num_rounds, due) if config.tracking.profile else range(0)
    mirror = mirror_of(result.run_dir, config.tracking)
    with Checkpointer(result.run_dir, config, mirror) as checkpointer:
        try:
            for done in range(first, num_rounds + 1):
                if done in due:
                    evaluate(result, pool, driver.model_weights(), done, tracker, watcher)
                if done < num_rounds:
                    with watched(pool, result.run_dir, profiled, done):
                        stats = driver.run_round(checkpointer.kept_rounds)
                    began = time.monotonic()
                    tracker.log_metrics(
                        round_metrics(stats, track_s, config.federation), step=done + 1
                    )
                    track_s, num_logged = time.monotonic() - began, done + 1
                    if is_checkpoint_due(num_logged, config):
                        checkpointer.take(driver, num_logged)
                    watcher.round_done(stats, num_rounds)
        except (KeyboardInterrupt, SystemExit):  # a warning before the end: nothing is to be lost
            last = driver.last_stats()
            if last is not None and last.round_idx >= num_logged:  # it ended, and nobody was told
                tracker.log_metrics(
                    round_metrics(last, track_s, config.federation), step=last.round_idx + 1
                )
            checkpointer.take(driver, first if last is None else last.round_idx + 1)
            raise
    if mirror is not None:
        tracker.log_metrics({"storage/failed_uploads": mirror.num_failed}, step=num_rounds)


def evaluate(
    result: Result,
    pool: ClientPool,
    weights: np.ndarray,
    num_rounds_done: int,
    tracker: Tracker,
    watcher: Watcher,
) -> None:
    """Evaluate the pre-training clients with the backbone (P,) and record what comes out."""
    setting, config, real = result.setting, result.setting.config, result.real
    began = time.monotonic()
    evaluation = evaluate_pretraining(
        pool,
        weights,
        setting.eval_ids,
        real,
        config.method.record,
        config.eval,
        num_rounds_done,
        config.seed,
    )
    result.evaluations.append(evaluation)
    log_evaluation(tracker, evaluation, real, {"time/evaluate_s": time.monotonic() - began})
    save_evaluation(result.run_dir, evaluation)
    watcher.evaluated(evaluation, real.floor_mean(setting.eval_ids))


def evaluation_rounds(num_rounds: int, every: int) -> set[int]:
    """Return after how many rounds to evaluate: before the first, after the last, some between."""
    return {0, num_rounds, *(range(0, num_rounds, every) if every else ())}


def round_metrics(
    stats: RoundStats, track_s: float, federation: FederationConfig
) -> dict[str, float]:
    """Return the tracked numbers of a round; `track_s`: how long recording the last one took.

    Those of the simulated failures are among them where `federation` asks for some.
    """
    scenario = {}
    if federation.drop_rate > 0:
        scenario["pretrain/absent"] = stats.num_absent
    if federation.straggler_rate > 0:
        scenario["pretrain/stragglers"] = stats.num_stragglers
    return scenario | {
        "pretrain/loss": stats.loss,
        "pretrain/dropped": stats.num_dropped,
        "time/round_s": stats.train_s + stats.aggregate_s,
        "time/train_s": stats.train_s,
        "time/aggregate_s": stats.aggregate_s,
        "time/dispatch_s": stats.dispatch_s,
        "time/idle_fraction": stats.idle_fraction,
        "time/track_s": track_s,
        "comm/up_bytes": stats.up_bytes,
        "comm/down_bytes": stats.down_bytes,
        "memory/rss_bytes": peak_bytes(),
    }


def try_on(result: Result, pool: ClientPool, weights: np.ndarray) -> None:
    """Work out what a few clients that have trained lose with each other's parts on (P,)."""
    setting, method = result.setting, result.setting.config.method
    num_rounds, store = setting.config.federation.num_rounds, ClientStore(result.run_dir / CLIENTS)
    if method.record.is_personal:
        first = method.first_own_round(num_rounds)
        newest = ((c, store.newest(c, num_rounds)) for c in setting.eval_ids)
        trained = (c for c, path in newest if path is not None and int(path.stem) > first)
        result.cross_ids = list(itertools.islice(trained, CROSS_CLIENTS))
    if result.cross_ids:
        result.cross_losses = cross_client_losses(pool, weights, result.cross_ids)


def tune(result: Result, pool: ClientPool, weights: np.ndarray) -> None:
    """Score the pre-training clients after each has fine-tuned the backbone (P,) by itself."""
    setting, config = result.setting, result.setting.config
    result.tuned = evaluate_tuned(
        pool,
        weights,
        setting.eval_ids,
        [len(setting.partition.split(client_id).train) for client_id in setting.eval_ids],
        config.adapt,
        result.real,
        config.eval,
        config.federation.num_rounds,
        config.seed,
    )


def adapt(
    result: Result, pool: ClientPool, weights: np.ndarray, settings: AdaptConfig | None = None
) -> None:
    """Fit every new client, and work out forgetting curves and the cross-client matrix."""
    setting, config = result.setting, result.setting.config
    method, seed, settings = config.method.record, config.seed, settings or config.adapt
    mean_emb = None
    if method.has_embedding and settings.init == "mean":
        mean_emb = mean_embedding(pool, setting.known_ids)
    pooled = pooled_features(pool, setting.known_ids, POOLED_IMAGES, seed)
    result.reports = adapt_clients(
        pool, setting.new_ids, weights, settings, mean_emb, pooled, config
    )
    before = None
    if result.evaluations:
        drawn = population_features(result.evaluations[-1], method.is_personal)
        sizes = (config.eval.kid_subset_size, config.eval.kid_num_subsets, seed)
        before = kid(pooled, drawn, *sizes).mean
    result.curves = [forgetting_curve(r, method, before) for r in result.reports]
    drawn = [*(result.evaluations[-1].drawn if result.evaluations else ())]
    drawn += [r.after for r in result.reports]
    ids = [d.client_id for d in drawn]
    if drawn:
        result.matrix = cross_client_matrix(drawn, result.real, ids, config.eval, seed)


def mean_embedding(pool: ClientPool, client_ids: list[int]) -> Tensor:
    """Return the mean embedding (D_emb,) of these clients out of masked ones: nobody sees them."""
    total = unmask_sum(pool.run("masked_embedding", client_ids, client_ids))
    return (total / len(client_ids)).float()


def population_features(evaluation: Evaluation, is_personal: bool) -> Tensor:
    """Return features (n, D) of the population's samples: all clients', or the shared model's."""
    drawn = evaluation.drawn if is_personal else evaluation.drawn[:1]
    return torch.cat([d.features for d in drawn])


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
    setting, folder = result.setting, result.run_dir / "model"
    more = {
        "image_shape": list(setting.images.shape[1:]),
        "class_names": list(setting.data.class_names),
        "partition_hash": setting.partition.hash,
    }
    save_run(folder, setting.config, setting.model, weights, more)
    ids = [*exported_ids(setting, result.run_dir), *setting.new_ids]
    hashes = pool.run("export", ids, folder)
    digest = hashlib.sha256(tensors_hash({"backbone": torch.tensor(weights)}).encode())
    for client_id, own in zip(ids, hashes, strict=True):
        digest.update(f"{client_id}:{own}".encode())
    result.state_fingerprint = digest.hexdigest()
