"""Evaluations of pre-training clients, between rounds and on the final backbone.

Between rounds clients draw, as they train, and a thread scores their samples beside later rounds:
scoring needs this process alone.
"""

import itertools
import logging
import time
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import Future, wait
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from pipeline.checkpoint.checkpointer import in_background, is_checkpoint_due
from pipeline.checkpoint.evaluation_store import save_evaluation
from pipeline.clients.store import ClientStore
from pipeline.evaluation.scores import (
    CrossClientMatrix,
    Evaluation,
    RealData,
    Scoring,
    draw_pretraining,
    score_clients,
)
from pipeline.experiment.watcher import Watcher
from pipeline.federation.driver import Driver
from pipeline.federation.pool import ClientPool
from pipeline.federation.round_loop import RoundListener
from pipeline.federation.rounds import RoundStats
from pipeline.federation.setup import FederationSetup
from pipeline.results.metric_names import EVALUATE_S
from pipeline.results.recording import log_evaluation
from pipeline.runs.layout import CLIENTS
from pipeline.tracking.tracker import Tracker

ENDING_S = 3.0  # that a run which ends before its time waits for scores
CROSS_CLIENTS = 8  # at most, in the matrix of losses
_log = logging.getLogger(__name__)
Scores = tuple[Evaluation, float]  # and the seconds that scoring took


@dataclass(frozen=True)
class PendingScores:
    """Scores of the state after `done` rounds, which a thread computes."""

    done: int
    drawing_s: float
    scores: Future[Scores]

    def is_ready(self, wait_s: float | None) -> bool:
        """Return whether there are scores, or their error, after `wait_s`; None: wait for them."""
        return self.scores in wait([self.scores], wait_s).done


def timed(score: Callable[[], Evaluation]) -> Scores:
    """Return the scores that a function works out, and the seconds that it takes."""
    began = time.monotonic()
    return score(), time.monotonic() - began


def with_last_samples(evaluations: Iterable[Evaluation]) -> list[Evaluation]:
    """Return evaluations of which the last one alone holds its samples."""
    kept: list[Evaluation] = []
    for evaluation in evaluations:
        kept[-1:] = [one.without_samples() for one in kept[-1:]]
        kept.append(evaluation)
    return kept


class Evaluator(RoundListener):
    """Evaluates the pre-training clients after the rounds `due`, one evaluation at a time.

    Each is recorded and appended to `evaluations`, the last one with its samples. The next
    evaluation and the next checkpoint wait for it.
    """

    def __init__(
        self,
        setting: FederationSetup,
        real: RealData,
        pool: ClientPool,
        tracker: Tracker,
        watcher: Watcher,
        due: Collection[int],
    ) -> None:
        self.setting, self.real, self.pool = setting, real, pool
        self.tracker, self.watcher, self.due = tracker, watcher, due
        self.evaluations: list[Evaluation] = []
        self._pending: PendingScores | None = None

    def between_rounds(self, done: int, driver: Driver) -> None:
        if done in self.due:
            self.start(driver.model_weights(), done)
        if self.watcher.may_stop or done == self.setting.config.federation.num_rounds:
            self.collect()

    def after_round(self, stats: RoundStats, driver: Driver) -> None:
        done = stats.round_idx + 1
        must_wait = done in self.due or is_checkpoint_due(done, self.setting.config)
        self.collect(None if must_wait else 0.0)

    def end_rounds(self, error: BaseException | None) -> None:
        self._salvage()

    def start(self, weights: np.ndarray, done: int) -> None:
        """Let the clients draw with the backbone (P,) of `done` rounds, and start the scoring."""
        self.collect()
        began, setting, config = time.monotonic(), self.setting, self.setting.config
        scoring = Scoring(self.real, config.eval, config.seed)
        score = draw_pretraining(
            self.pool, weights, setting.eval_ids, config.draws_alike, done, scoring
        )
        scores = in_background(partial(timed, score), "scores")
        self._pending = PendingScores(done, time.monotonic() - began, scores)

    def collect(self, wait_s: float | None = None) -> Evaluation | None:
        """Wait for the pending scores, at most `wait_s`; record and return them.

        Returns None if there are none, or not yet. Raises the error of scoring or recording, once.
        """
        pending = self._pending
        if pending is None or not pending.is_ready(wait_s):
            return None
        try:
            evaluation = self._record(pending)
        except Exception:
            self._pending = None
            raise
        self._pending = None  # not before: a record that an interrupt cuts off is made again
        self.evaluations = with_last_samples([*self.evaluations, evaluation])
        self.watcher.evaluated(evaluation, self.real.floor_mean(self.setting.eval_ids))
        return evaluation

    def _record(self, pending: PendingScores) -> Evaluation:
        evaluation, scoring_s = pending.scores.result()
        seconds = {EVALUATE_S: pending.drawing_s + scoring_s}
        log_evaluation(self.tracker, self.setting, evaluation, self.real, seconds)
        is_last = evaluation.round_idx == self.setting.config.federation.num_rounds
        kept = evaluation if is_last else evaluation.without_features()
        save_evaluation(self.tracker.run_dir, kept)
        return evaluation

    def has_scores_before(self, num_rounds_done: int) -> bool:
        """Wait shortly for pending scores of an earlier state; return whether none of them is lost.

        A run that resumes after so many rounds never evaluates the earlier state again.
        """
        pending = self._pending
        return pending is None or pending.done >= num_rounds_done or self._salvage()

    def _salvage(self) -> bool:
        """Wait shortly for pending scores and record them; warn and return False if that fails."""
        if self._pending is None:
            return True
        try:
            if self.collect(ENDING_S) is not None:
                return True
            reason = f"still being worked out after {ENDING_S:g} s"
        except Exception as error:
            reason = str(error)
        self._pending = None
        _log.warning("scores of the last evaluation are lost: %s", reason)
        return False


# --- the clients that have trained, on the final backbone ---


def cross_client_losses(
    setting: FederationSetup, pool: ClientPool, weights: np.ndarray, run_dir: Path
) -> CrossClientMatrix | None:
    """Return held-out losses of clients' data (row) with each other's own parts (column) on (P,).

    All entries of a row are taken at the same noise; the diagonal is `HeldoutLosses.own`. The
    clients are the first evaluated ones that have trained an own part; None if there are none.
    """
    client_ids = _trained_ids(setting, ClientStore(run_dir / CLIENTS))
    if not client_ids:
        return None
    rows = pool.run_all("losses_as", list(client_ids), pool.share(weights), client_ids)
    return CrossClientMatrix(client_ids, np.array(rows))


def _trained_ids(setting: FederationSetup, store: ClientStore) -> tuple[int, ...]:
    method, num_rounds = setting.config.method, setting.config.federation.num_rounds
    if not method.record.is_personal:
        return ()
    first = method.first_own_round(num_rounds)
    newest = ((c, store.newest(c, num_rounds)) for c in setting.eval_ids)
    trained = (c for c, path in newest if path is not None and int(path.stem) > first)
    return tuple(itertools.islice(trained, CROSS_CLIENTS))


def finetune_clients(
    setting: FederationSetup, real: RealData, pool: ClientPool, weights: np.ndarray
) -> Evaluation:
    """Return scores of pre-training clients, each after it has trained on alone.

    Each trains what a new client would, from the backbone (P,) and its own part if it has one.
    """
    config, ids = setting.config, setting.eval_ids
    costs = [float(len(setting.partition.split(client_id).train)) for client_id in ids]
    results = pool.run_all("draw_tuned", ids, pool.share(weights), config.adapt, costs=costs)
    drawn, losses = zip(*results, strict=True)
    scoring = Scoring(real, config.eval, config.seed)
    return score_clients(config.federation.num_rounds, ids, drawn, losses, scoring)
