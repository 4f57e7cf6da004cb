"""Pre-training: the rounds of the driver, and the listeners that a run adds to them."""

import logging
import time
from pathlib import Path

import numpy as np

from pipeline.checkpoint.checkpointer import Checkpointer
from pipeline.checkpoint.evaluation_store import load_evaluations
from pipeline.checkpoint.remote import mirror_of
from pipeline.checkpoint.snapshots import go_back
from pipeline.clients.memory import peak_bytes
from pipeline.config.federation import FederationConfig
from pipeline.evaluation.diagnosis import divergence
from pipeline.evaluation.scores import Evaluation, RealData
from pipeline.experiment.evaluator import Evaluator, with_last_samples
from pipeline.experiment.pools import MakeDriver
from pipeline.experiment.profiling import Profiler, profiled_rounds
from pipeline.experiment.watcher import Watcher
from pipeline.federation.driver import Driver
from pipeline.federation.partitioning import promise_to_clients
from pipeline.federation.pool import ClientPool
from pipeline.federation.round_loop import RoundListener, run_rounds
from pipeline.federation.rounds import RoundSettings, RoundStats
from pipeline.federation.setup import FederationSetup
from pipeline.results.metric_names import (
    DELTA,
    EPSILON,
    FAILED_UPLOADS,
    FINAL_STEP,
    ROUND_S,
    RSS,
    TRAIN_LOSS,
)
from pipeline.results.metrics import round_metrics
from pipeline.results.recording import log_diagnoses, log_profile
from pipeline.results.result import Pretraining
from pipeline.tracking.mlflow_settings import SystemLoad, system_load
from pipeline.tracking.outbox import read_points
from pipeline.tracking.tracker import Tracker
from spire_core.diffusion.process import Diffusion
from spire_core.errors import DivergenceError
from spire_core.federated.server import ServerState
from spire_core.network.flat_model import initial_weights
from spire_core.privacy.guarantee import RoundsGuarantee
from spire_core.training.fixed_entrance import fixed_entrance

NUM_EPSILONS = 20  # of a run: each takes a second where clients are sampled
logger = logging.getLogger(__name__)


def pretrain(
    setting: FederationSetup,
    real: RealData,
    pool: ClientPool,
    make_driver: MakeDriver,
    tracker: Tracker,
    watcher: Watcher,
) -> Pretraining:
    """Run the rounds and return the backbone with its evaluations and losses.

    The run's newest checkpoint, if there is one, is the start. A method without rounds returns the
    initial backbone.
    """
    config, run_dir = setting.config, tracker.run_dir
    initial = first_weights(setting)
    if not config.method.record.is_federated:
        return Pretraining(initial)
    state = go_back(run_dir, config) or ServerState.initial(initial)
    if 0 < state.round_idx < config.federation.num_rounds:
        tracker.log_tags({"spire.resumed_after_round": str(state.round_idx)})
    if lost := rounds_without_numbers(run_dir, state.round_idx):
        logger.warning("the numbers of rounds %s are lost: the result is the same", lost)
        tracker.log_tags({"spire.rounds_without_numbers": lost})
    sizes, shared_size = setting.partition.train_sizes, setting.model.layout.num_without_local
    rounds = RoundSettings(config, sizes, shared_size, promise_to_clients(config))
    driver = make_driver(pool, state, rounds)
    if config.client.engine == "grouped" and config.resolved_client.engine == "loop":
        logger.warning("client.engine=grouped is computed as loop: this U-Net has model.dropout")
    watcher.stage(f"pre-training on {config.federation.num_clients} clients")
    try:
        evaluations = _train(setting, real, pool, driver, state.round_idx, tracker, watcher)
    except DivergenceError as error:
        log_diagnoses(tracker, [divergence(error)])
        raise
    log_profile(tracker, run_dir)
    weights = driver.model_weights()
    driver.close()
    points = [metrics for _, metrics in read_points(run_dir)]
    losses = tuple(metrics[TRAIN_LOSS] for metrics in points if TRAIN_LOSS in metrics)
    return Pretraining(weights, evaluations, losses)


def first_weights(setting: FederationSetup) -> np.ndarray:
    """Return the weights (P,) before the first round, with a fixed entrance where that is asked."""
    config, shape = setting.config, setting.images.shape[1:]
    weights = initial_weights(config.model, config.method, shape[0], config.seed)
    is_learnt = config.method.projection == "learnt"
    if not is_learnt and config.model.backbone and config.method.record.has_embedding:
        diffusion = Diffusion.of(config.diffusion, "cpu", config.model.backbone)
        size = (shape[0], shape[1], shape[2])
        weights = fixed_entrance(
            setting.model, weights, diffusion, size, config.method.projection, config.seed
        )
    return weights.numpy()


def _train(
    setting: FederationSetup,
    real: RealData,
    pool: ClientPool,
    driver: Driver,
    first: int,
    tracker: Tracker,
    watcher: Watcher,
) -> tuple[Evaluation, ...]:
    """Run the rounds from `first` on; return all evaluations of the run, also earlier ones.

    The last one alone holds its samples.
    """
    config, run_dir = setting.config, tracker.run_dir
    num_rounds = config.federation.num_rounds
    earlier = with_last_samples(load_evaluations(run_dir, first))
    due = evaluation_rounds(num_rounds, config.eval.every) - {e.round_idx for e in earlier}
    mirror = mirror_of(run_dir, config)
    evaluator = Evaluator(setting, real, pool, tracker, watcher, due)
    checkpointer = Checkpointer(run_dir, config, mirror, evaluator.has_scores_before)
    load = system_load() if config.tracking.enabled else None
    listeners: list[RoundListener] = [
        evaluator,  # first: scores are recorded before the round, and before its checkpoint
        RoundRecorder(tracker, config.federation, promise_to_clients(config), load),
        checkpointer,
        watcher,  # last: it is called when all of the round is safe
    ]
    if config.tracking.profile:  # after the evaluator, so that no evaluation is profiled
        listeners.insert(1, Profiler(pool, run_dir, profiled_rounds(first, num_rounds, due)))
    run_rounds(driver, range(first, num_rounds), listeners, checkpointer.kept_rounds)
    if mirror is not None:
        tracker.log_metrics({FAILED_UPLOADS: mirror.num_failed}, step=FINAL_STEP)
    return tuple(with_last_samples([*earlier, *evaluator.evaluations]))


def rounds_without_numbers(run_dir: Path, num_rounds_done: int) -> str:
    """Return the rounds, such as "3, 8-12", whose numbers a power cut took; "" if there are none.

    They are counted from 1, as the steps of metrics are. A resumed run never repeats the rounds
    before its checkpoint.
    """
    recorded = {step for step, metrics in read_points(run_dir) if ROUND_S in metrics}
    lost = sorted({*range(1, num_rounds_done + 1)} - recorded)
    firsts = [step for step in lost if step - 1 not in lost]
    lasts = [step for step in lost if step + 1 not in lost]
    spans = zip(firsts, lasts, strict=True)
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in spans)


def evaluation_rounds(num_rounds: int, every: int) -> set[int]:
    """Return after how many rounds to evaluate: before the first, after the last, some between."""
    return {0, num_rounds, *(range(0, num_rounds, every) if every else ())}


class RoundRecorder(RoundListener):
    """Records every round's metrics, also those of a last round that an interrupt follows."""

    def __init__(
        self,
        tracker: Tracker,
        federation: FederationConfig,
        guarantee: RoundsGuarantee | None = None,
        load: SystemLoad | None = None,
    ) -> None:
        """`load`: not with a `guarantee`."""
        self.tracker, self.federation, self.guarantee = tracker, federation, guarantee
        self.load = load
        self._num_recorded = 0  # rounds
        self._track_s = 0.0  # is known when a round has been recorded: the next one reports it

    def begin_rounds(self, rounds: range) -> None:
        self._num_recorded = rounds.start

    def after_round(self, stats: RoundStats, driver: Driver) -> None:
        began = time.monotonic()
        self._record(stats)
        self._track_s, self._num_recorded = time.monotonic() - began, stats.round_idx + 1

    def interrupted(self, state: ServerState, stats: RoundStats | None) -> None:
        if stats is not None and stats.round_idx >= self._num_recorded:
            self._record(stats)

    def _record(self, stats: RoundStats) -> None:
        metrics = round_metrics(stats, self._track_s)
        metrics |= self._machine() if self.guarantee is None else self._spent(stats, self.guarantee)
        self.tracker.log_metrics(metrics, step=stats.round_idx + 1)

    def _machine(self) -> dict[str, float]:
        """Return what the machine has in use, which may depend on who takes part."""
        return {RSS: peak_bytes(), **({} if self.load is None else self.load.sample())}

    def _spent(self, stats: RoundStats, guarantee: RoundsGuarantee) -> dict[str, float]:
        """Return the privacy that the rounds so far have spent, at `NUM_EPSILONS` rounds or so."""
        done, num_rounds = stats.round_idx + 1, self.federation.num_rounds
        is_due = done % max(1, num_rounds // NUM_EPSILONS) == 0 or done == num_rounds
        return {EPSILON: guarantee.spent(done), DELTA: guarantee.delta} if is_due else {}
