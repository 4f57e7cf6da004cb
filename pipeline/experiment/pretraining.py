"""Pre-training: the rounds of the driver, and the listeners that a run adds to them."""

import logging
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.checkpoint.checkpointer import Checkpointer
from pipeline.checkpoint.remote import mirror_of
from pipeline.checkpoint.snapshots import go_back, load_evaluations, save_evaluation
from pipeline.clients.memory import peak_bytes
from pipeline.config.federation import FederationConfig
from pipeline.evaluation.diagnosis import divergence
from pipeline.evaluation.scores import Evaluation, RealData, evaluate_pretraining
from pipeline.experiment.pools import MakeDriver
from pipeline.experiment.watcher import Watcher
from pipeline.federation.driver import Driver
from pipeline.federation.pool import ClientPool
from pipeline.federation.round_loop import RoundListener, run_rounds
from pipeline.federation.rounds import RoundSettings, RoundStats, promise_to_clients
from pipeline.federation.setup import FederationSetup
from pipeline.results.metric_names import DELTA, EPSILON, FINAL_STEP, TRAIN_LOSS
from pipeline.results.metrics import round_metrics
from pipeline.results.recording import log_diagnoses, log_evaluation, log_profile
from pipeline.results.result import Pretraining
from pipeline.runs.layout import PROFILE
from pipeline.tracking.mlflow_session import system_load
from pipeline.tracking.outbox import read_points
from pipeline.tracking.tracker import Tracker
from spire_core.diffusion.process import Diffusion
from spire_core.errors import DivergenceError
from spire_core.federated.server import ServerState
from spire_core.network.flat_model import initial_weights
from spire_core.privacy.guarantee import RoundsGuarantee
from spire_core.training.fixed_entrance import fixed_entrance

PROFILED_ROUNDS = 3
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
    first, num_rounds = state.round_idx, config.federation.num_rounds
    if 0 < first < num_rounds:
        tracker.log_tags({"spire.resumed_after_round": str(first)})
    promise = promise_to_clients(config)
    sizes, shared_size = setting.partition.train_sizes, setting.model.layout.num_without_local
    driver = make_driver(pool, state, RoundSettings(config, sizes, shared_size, promise))
    if config.client.engine == "grouped" and config.resolved_client.engine == "loop":
        logger.warning("client.engine=grouped is computed as loop: this U-Net has model.dropout")
    watcher.stage(f"pre-training on {config.federation.num_clients} clients")

    mirror = mirror_of(run_dir, config)
    evaluations = [
        one if one.round_idx == num_rounds else one.without_samples()
        for one in load_evaluations(run_dir, first)
    ]
    due = evaluation_rounds(num_rounds, config.eval.every)
    due -= {one.round_idx for one in evaluations}
    checkpointer = Checkpointer(run_dir, config, mirror)
    load = system_load(config.tracking)
    listeners: list[RoundListener] = [
        Evaluator(setting, real, pool, tracker, watcher, evaluations, due),
        RoundRecorder(tracker, config.federation, promise, load),
        checkpointer,
        watcher,  # last: it is called when all of the round is safe
    ]
    if config.tracking.profile:  # after the evaluator, so that no evaluation is profiled
        profiled = profiled_rounds(first, num_rounds, due)
        listeners.insert(1, Profiler(pool, run_dir, profiled))
    try:
        run_rounds(driver, range(first, num_rounds), listeners, checkpointer.kept_rounds)
    except DivergenceError as error:
        log_diagnoses(tracker, [divergence(error)])
        raise
    if mirror is not None:
        tracker.log_metrics({"storage/failed_uploads": mirror.num_failed}, step=FINAL_STEP)
    log_profile(tracker, run_dir)
    weights = driver.model_weights()
    driver.close()
    points = [metrics for _, metrics in read_points(run_dir)]
    losses = tuple(metrics[TRAIN_LOSS] for metrics in points if TRAIN_LOSS in metrics)
    return Pretraining(weights, tuple(evaluations), losses)


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


def evaluation_rounds(num_rounds: int, every: int) -> set[int]:
    """Return after how many rounds to evaluate: before the first, after the last, some between."""
    return {0, num_rounds, *(range(0, num_rounds, every) if every else ())}


# --- listeners to the rounds ---


@dataclass
class Evaluator(RoundListener):
    """Evaluates the pre-training clients after the rounds `due`.

    Each evaluation is recorded, and joins the earlier ones of the run in `evaluations`. That after
    the last round alone holds its samples.
    """

    setting: FederationSetup
    real: RealData
    pool: ClientPool
    tracker: Tracker
    watcher: Watcher
    evaluations: list[Evaluation]
    due: Collection[int]

    def between_rounds(self, done: int, driver: Driver) -> None:
        if done not in self.due:
            return
        began, setting, real = time.monotonic(), self.setting, self.real
        evaluation = evaluate_pretraining(setting, real, self.pool, driver.model_weights(), done)
        seconds = {"time/evaluate_s": time.monotonic() - began}
        log_evaluation(self.tracker, setting, evaluation, real, seconds)
        is_last = done == setting.config.federation.num_rounds
        kept = evaluation if is_last else evaluation.without_features()
        save_evaluation(self.tracker.run_dir, kept)
        self.evaluations.append(evaluation if is_last else evaluation.without_samples())
        self.watcher.evaluated(evaluation, real.floor_mean(setting.eval_ids))


@dataclass
class RoundRecorder(RoundListener):
    """Records every round's metrics, also those of a last round that an interrupt follows."""

    tracker: Tracker
    federation: FederationConfig
    guarantee: RoundsGuarantee | None = None
    load: Callable[[], dict[str, float]] | None = None  # not with a `guarantee`
    _num_recorded: int = 0  # rounds, with those before a resume
    _track_s: float = 0.0  # is known when a round has been recorded: the next one reports it

    def after_round(self, stats: RoundStats, driver: Driver) -> None:
        began = time.monotonic()
        self._record(stats)
        self._track_s, self._num_recorded = time.monotonic() - began, stats.round_idx + 1

    def interrupted(self, state: ServerState, stats: RoundStats | None) -> None:
        if stats is not None and stats.round_idx >= self._num_recorded:
            self._record(stats)

    def _record(self, stats: RoundStats) -> None:
        metrics, done = round_metrics(stats, self._track_s), stats.round_idx + 1
        num_rounds = self.federation.num_rounds
        if self.guarantee is None:  # what the machine has in use may depend on who takes part
            metrics["memory/rss_bytes"] = peak_bytes()
            metrics |= {} if self.load is None else self.load()
        elif done % max(1, num_rounds // NUM_EPSILONS) == 0 or done == num_rounds:
            metrics |= {EPSILON: self.guarantee.spent(done), DELTA: self.guarantee.delta}
        self.tracker.log_metrics(metrics, step=done)


def profiled_rounds(first: int, num_rounds: int, evaluated: Collection[int]) -> range:
    """Return which of the rounds from `first` on are profiled: three, after a warm-up round.

    The warm-up round allocates memory and chooses kernels. Fewer rounds are profiled where the run
    ends or an evaluation comes in between; `evaluated`: the numbers of rounds after which there is
    one.
    """
    start = max(first, min(first + 1, num_rounds - 1))
    stop = min(start + PROFILED_ROUNDS, num_rounds)
    return range(start, min([stop, *(done for done in evaluated if done > start)]))


@dataclass
class Profiler(RoundListener):
    """Profiles one worker during `rounds` with torch.profiler (`tracking.profile`).

    After the last of them the run's folder gets `profile/rounds_<first>-<last>.pt.trace.json.gz`,
    for Perfetto, chrome://tracing or TensorBoard, and `profile/operators.txt`, the slowest
    operators. No random number is drawn and no result changes; the loss of that worker costs the
    profile alone.
    """

    pool: ClientPool
    run_dir: Path
    rounds: range

    def between_rounds(self, done: int, driver: Driver) -> None:
        if done in self.rounds[:1]:
            next(self.pool.each("start_profile"))

    def after_round(self, stats: RoundStats, driver: Driver) -> None:
        if stats.round_idx in self.rounds[-1:]:
            name = f"rounds_{self.rounds[0] + 1}-{self.rounds[-1] + 1}"  # as metrics count them
            if not next(self.pool.each("save_profile", self.run_dir / PROFILE, name)):
                logger.warning("no profile: the client actor that was watched has been lost")
