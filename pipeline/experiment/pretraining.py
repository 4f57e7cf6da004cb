"""Pre-training: rounds of the driver, with evaluations and checkpoints when they are due."""

import itertools
import logging
import time

import numpy as np

from pipeline.checkpoint.checkpointer import Checkpointer, go_back, is_checkpoint_due
from pipeline.checkpoint.evaluation_store import load_evaluations
from pipeline.checkpoint.remote import mirror_of
from pipeline.clients.store import ClientStore
from pipeline.evaluation.scores import cross_client_losses
from pipeline.experiment.evaluator import Evaluator
from pipeline.experiment.pools import MakeDriver
from pipeline.experiment.profiling import profiled_rounds, watched
from pipeline.experiment.watcher import Watcher
from pipeline.federation.driver import RoundDriver
from pipeline.federation.pool import ClientPool
from pipeline.federation.rounds import RoundSettings
from pipeline.results.metrics import round_metrics
from pipeline.results.recording import log_profile
from pipeline.results.result import Result
from pipeline.runs.layout import CLIENTS
from pipeline.tracking.tracker import Tracker
from spire_core.federated.server import ServerState
from spire_core.network.flat_model import initial_weights

CROSS_CLIENTS = 8  # that try on each other's parts
logger = logging.getLogger(__name__)


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
    rounds = RoundSettings.of(config, setting.partition.train_sizes, setting.model.layout)
    driver = make_driver(pool, state, rounds)
    if config.client.engine == "grouped" and config.resolved_client.engine == "loop":
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
    driver: RoundDriver,
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
    with (
        Checkpointer(result.run_dir, config, mirror) as checkpointer,
        Evaluator(result, pool, tracker, watcher) as evaluator,
    ):
        try:
            for done in range(first, num_rounds):
                if done in due:
                    evaluator.begin(driver.model_weights(), done)
                with watched(pool, result.run_dir, profiled, done):
                    stats = driver.run_round(checkpointer.kept_rounds)
                is_due = is_checkpoint_due(done + 1, config)
                evaluator.finish(None if is_due or done + 1 in due else 0.0)
                began = time.monotonic()
                tracker.log_metrics(round_metrics(stats, track_s, config.federation), step=done + 1)
                track_s, num_logged = time.monotonic() - began, done + 1
                if is_due:
                    checkpointer.take(driver, num_logged)
                watcher.round_done(stats, num_rounds)
            if num_rounds in due:
                evaluator.begin(driver.model_weights(), num_rounds)
            evaluator.finish()
        except (KeyboardInterrupt, SystemExit):  # a warning before the end: nothing is to be lost
            state, last = driver.last()
            if last is not None and last.round_idx >= num_logged:  # it ended, and nobody was told
                tracker.log_metrics(
                    round_metrics(last, track_s, config.federation), step=last.round_idx + 1
                )
            if not evaluator.lacks_scores_before(state.round_idx) or evaluator.end():
                checkpointer.take_state(state)
            raise
    if mirror is not None:
        tracker.log_metrics({"storage/failed_uploads": mirror.num_failed}, step=num_rounds)


def evaluation_rounds(num_rounds: int, every: int) -> set[int]:
    """Return after how many rounds to evaluate: before the first, after the last, some between."""
    return {0, num_rounds, *(range(0, num_rounds, every) if every else ())}


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
