"""One experiment, top to bottom: partition, pre-train, adapt the new clients, evaluate, track.

Read `run_experiment` first; the names that it uses, in order, are the data flow.
"""

import contextlib
import hashlib
import resource
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from pipeline.config import Config
from pipeline.datasets import ImageData, load
from pipeline.driver import Driver, RoundStats
from pipeline.evaluation import Evaluation, RealData, cross_client_matrix, evaluate_pretraining
from pipeline.forgetting import ForgettingCurve, forgetting_curve
from pipeline.messages import AdaptReport, WorkerSetup
from pipeline.pool import ClientPool, LocalClientPool
from pipeline.ray_pool import RayClientPool, RemoteDriver, cluster
from pipeline.record import log_adaptation, log_evaluation, log_setting, log_summary, run_tags
from pipeline.resize import resized
from pipeline.resources import plan_actors
from pipeline.saved_run import save_run
from pipeline.tracking import Tracker
from pipeline.worker import ClientWorker
from spire_core.adapt import AdaptConfig
from spire_core.errors import DataError
from spire_core.extractor import auto_extractor, make_extractor
from spire_core.flat import FlatModel, initial_weights, tensors_hash
from spire_core.kid import kid
from spire_core.partition import Partition, class_mixture, make_partition
from spire_core.secure_sum import unmask_sum

POOLED_IMAGES = 1000  # of the pre-training population, for forgetting


class Watcher(Protocol):
    """Is told what happens, as it happens: a progress bar, or nothing."""

    def stage(self, text: str) -> None: ...

    def round_done(self, stats: RoundStats, num_rounds: int) -> None: ...

    def evaluated(self, evaluation: Evaluation, floor: float) -> None: ...


@dataclass(frozen=True)
class Setting:
    """All that is fixed before the first round."""

    config: Config
    data: ImageData
    images: np.ndarray  # (N, C, H, W) uint8 at the experiment's size
    partition: Partition
    mixtures: np.ndarray  # (num clients, K)
    extractor: str
    model: FlatModel

    @property
    def train_ids(self) -> list[int]:
        return [c.client_id for c in self.partition.train_clients]

    @property
    def new_ids(self) -> list[int]:
        return [c.client_id for c in self.partition.new_clients]

    @property
    def eval_ids(self) -> list[int]:
        """The pre-training clients that evaluations look at."""
        return self.train_ids[: self.config.eval.num_clients]


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
    metrics: dict[str, float] = field(default_factory=dict)
    state_fingerprint: str = ""


def prepare(config: Config) -> Setting:
    """Return data, partition and model of an experiment; every mistake in them comes out here."""
    data = load(config.data, "train")
    images = resized(data.images, config.data.image_size)
    config.model.check_image_size(images.shape[-1])
    num_classes = len(data.class_names)
    partition = make_partition(
        data.labels,
        num_classes,
        config.partition,
        config.federation.num_clients,
        config.federation.num_new_clients,
        config.seed,
        config.adapt.num_images,
    )
    clients = (*partition.train_clients, *partition.new_clients)
    held = [np.concatenate([c.train, c.test]) for c in clients]
    mixtures = np.stack([class_mixture(data.labels, h, num_classes) for h in held])
    if min(len(c.test) for c in clients) < 2:
        raise DataError(
            "expected at least 2 test images per client, got fewer: raise partition.min_size or "
            "partition.test_fraction"
        )
    name = auto_extractor(config.data.name, config.eval.extractor)
    make_extractor(name, config.eval.extractor_weights)  # missing weights come out now
    model = FlatModel(config.model, config.method, images.shape[1])
    return Setting(config, data, images, partition, mixtures, name, model)


@contextlib.contextmanager
def open_pool(setting: Setting, folder: Path) -> Iterator[tuple[ClientPool, type]]:
    """Yield the client pool that the configuration asks for, and the driver that goes with it."""
    config = setting.config
    setup = WorkerSetup(config, setting.mixtures, setting.partition, setting.extractor, folder)
    if config.resources.pool == "local":
        yield LocalClientPool(ClientWorker(setup, setting.images)), Driver
        return
    with cluster() as available:
        most = max(config.federation.cohort_size, config.federation.num_new_clients)
        plan = plan_actors(config.resources, available, most)
        pool = RayClientPool.start(setup, setting.images, plan)
        try:
            yield pool, RemoteDriver
        finally:
            pool.close()


def run_experiment(
    config: Config, preset: str | None, watcher: Watcher, parent_run_id: str | None = None
) -> Result:
    """Run one experiment end to end and return what it found; everything is tracked on the way."""
    setting = prepare(config)
    tags = run_tags(setting, preset)
    with Tracker.start(config.tracking, run_name(config), tags, parent_run_id) as tracker:
        log_setting(tracker, setting)
        watcher.stage("starting the clients")
        with open_pool(setting, tracker.run_dir) as (pool, make_driver):
            everyone = setting.train_ids + setting.new_ids
            real = RealData.gather(pool, everyone, setting.mixtures, config.eval, config.seed)
            result = Result(tracker.run_id, tracker.run_dir, setting, real)

            weights = pretrain(result, pool, make_driver, tracker, watcher)
            watcher.stage(f"adapting {len(setting.new_ids)} new clients")
            adapt(result, pool, weights)
            log_adaptation(tracker, result)

            save(result, pool, weights)
        log_summary(tracker, result)
    return result


def run_name(config: Config) -> str:
    """Return the name under which a run is found in the tracking UI."""
    return config.tracking.run_name or f"{config.method.name}-{config.data.name}-s{config.seed}"


def pretrain(
    result: Result, pool: ClientPool, make_driver: type, tracker: Tracker, watcher: Watcher
) -> np.ndarray:
    """Run the rounds, with evaluations now and then; return the backbone (P,) that clients get."""
    setting, config = result.setting, result.setting.config
    shape = setting.images.shape
    initial = initial_weights(config.model, config.method, shape[1], config.seed).numpy()
    if not config.method.record.is_federated:
        return initial
    driver = make_driver(
        pool,
        initial,
        config.federation,
        config.client,
        config.server,
        config.method,
        [len(c.train) for c in setting.partition.train_clients],
        config.seed,
    )
    floor = result.real.floor_mean(setting.eval_ids)
    num_rounds = config.federation.num_rounds
    due = evaluation_rounds(num_rounds, config.eval.every)
    watcher.stage(f"pre-training on {config.federation.num_clients} clients")
    for done in range(num_rounds + 1):
        if done in due:
            evaluation = evaluate_pretraining(
                pool,
                driver.model_weights(),
                setting.eval_ids,
                result.real,
                config.method.record,
                config.eval,
                done,
                config.seed,
            )
            result.evaluations.append(evaluation)
            log_evaluation(tracker, evaluation, result.real)
            watcher.evaluated(evaluation, floor)
        if done < num_rounds:
            stats = driver.run_round()
            tracker.log_metrics(round_metrics(stats), step=done + 1)
            watcher.round_done(stats, num_rounds)
    weights = driver.model_weights()
    driver.close()
    return weights


def evaluation_rounds(num_rounds: int, every: int) -> set[int]:
    """Return after how many rounds to evaluate: before the first, after the last, some between."""
    return {0, num_rounds, *(range(0, num_rounds, every) if every else ())}


def round_metrics(stats: RoundStats) -> dict[str, float]:
    """Return the tracked numbers of one round."""
    rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "pretrain/loss": stats.loss,
        "time/round_s": stats.train_s + stats.aggregate_s,
        "time/train_s": stats.train_s,
        "time/aggregate_s": stats.aggregate_s,
        "comm/up_bytes": stats.up_bytes,
        "comm/down_bytes": stats.down_bytes,
        "memory/rss_bytes": rss * (1 if sys.platform == "darwin" else 1024),
    }


def adapt(
    result: Result, pool: ClientPool, weights: np.ndarray, settings: AdaptConfig | None = None
) -> None:
    """Fit every new client, and work out forgetting curves and the cross-client matrix."""
    setting, config = result.setting, result.setting.config
    method, seed, settings = config.method.record, config.seed, settings or config.adapt
    mean_emb = None
    if method.has_embedding and settings.init == "mean":
        mean_emb = mean_embedding(pool, setting.train_ids)
    pooled = result.real.pooled(setting.train_ids, POOLED_IMAGES, seed)
    handle = pool.share(weights)
    result.reports = pool.run("adapt", setting.new_ids, handle, settings, mean_emb, pooled)
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


def save(result: Result, pool: ClientPool, weights: np.ndarray) -> None:
    """Write backbone and clients' own parts to the run's folder; fingerprint all of it together."""
    setting, folder = result.setting, result.run_dir / "model"
    more = {
        "image_shape": list(setting.images.shape[1:]),
        "class_names": list(setting.data.class_names),
        "partition_hash": setting.partition.hash,
    }
    save_run(folder, setting.config, setting.model, weights, more)
    ids: Sequence[int] = setting.train_ids + setting.new_ids
    hashes = pool.run("export", ids, folder)
    digest = hashlib.sha256(tensors_hash({"backbone": torch.tensor(weights)}).encode())
    for client_id, own in zip(ids, hashes, strict=True):
        digest.update(f"{client_id}:{own}".encode())
    result.state_fingerprint = digest.hexdigest()
