"""Evaluations between rounds: clients draw, and their scores are worked out beside the next rounds.

Drawing needs the clients, as rounds do. Scoring does not, and takes long where features are long
and many: with Inception's it would leave all GPUs idle for minutes.
"""

import logging
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self

import numpy as np

from pipeline.evaluation import Evaluation, draw_pretraining
from pipeline.evaluation_store import save_evaluation
from pipeline.pool import ClientPool
from pipeline.progress import Watcher
from pipeline.record import log_evaluation
from pipeline.result import Result
from pipeline.tracking import Tracker
from spire_core.errors import SpireError

_log = logging.getLogger(__name__)


class Evaluator:
    """Evaluates the pre-training clients of a run, one evaluation at a time, and records each."""

    def __init__(
        self, result: Result, pool: ClientPool, tracker: Tracker, watcher: Watcher
    ) -> None:
        self.result, self.pool, self.tracker, self.watcher = result, pool, tracker, watcher
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="scores")
        self._scores: Future[tuple[Evaluation, float]] | None = None
        self._drawing_s = 0.0

    def begin(self, weights: np.ndarray, num_rounds_done: int) -> None:
        """Have the clients draw with the backbone (P,), and begin to score what they drew."""
        began = time.monotonic()
        setting, config = self.result.setting, self.result.setting.config
        score = draw_pretraining(
            self.pool,
            weights,
            setting.eval_ids,
            self.result.real,
            config.method.record,
            config.eval,
            num_rounds_done,
            config.seed,
        )
        self._drawing_s = time.monotonic() - began
        self._scores = self._thread.submit(_timed, score)

    def finish(self, waits: bool = True) -> None:
        """Record the scores that were begun, if there are any; without waiting, if they are done.

        Returns with everything recorded, or lets the scores' own error out.
        """
        if self._scores is None or not (waits or self._scores.done()):
            return
        evaluation, scoring_s = self._scores.result()
        self._scores = None
        real, setting = self.result.real, self.result.setting
        self.result.evaluations.append(evaluation)
        seconds = {"time/evaluate_s": self._drawing_s + scoring_s}
        log_evaluation(self.tracker, evaluation, real, seconds)
        save_evaluation(self.result.run_dir, evaluation)
        self.watcher.evaluated(evaluation, real.floor_mean(setting.eval_ids))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self.finish()
        except SpireError as lost:
            if error is None:
                raise
            _log.warning("%s", lost)  # the error that ended the run matters more than this one
        finally:
            self._thread.shutdown()


def _timed(score: Callable[[], Evaluation]) -> tuple[Evaluation, float]:
    began = time.monotonic()
    return score(), time.monotonic() - began
