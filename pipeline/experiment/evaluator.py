"""Evaluations between rounds: clients draw, and their scores are worked out beside the next rounds.

Drawing needs the clients, as rounds do. Scoring needs this process alone (docs/performance.md).
"""

import logging
import threading
import time
from concurrent.futures import Future, wait
from types import TracebackType
from typing import Self

import numpy as np

from pipeline.checkpoint.evaluation_store import save_evaluation
from pipeline.evaluation.scores import Evaluation, draw_pretraining
from pipeline.experiment.watcher import Watcher
from pipeline.federation.pool import ClientPool
from pipeline.results.recording import log_evaluation
from pipeline.results.result import Result
from pipeline.tracking.tracker import Tracker

ENDING_S = 3.0  # that a run which ends before its time waits for scores
_log = logging.getLogger(__name__)


class Evaluator:
    """Evaluates the pre-training clients of a run, one evaluation at a time, and records each."""

    def __init__(
        self, result: Result, pool: ClientPool, tracker: Tracker, watcher: Watcher
    ) -> None:
        self.result, self.pool, self.tracker, self.watcher = result, pool, tracker, watcher
        self._scores: Future[tuple[Evaluation, float]] | None = None
        self._num_rounds_done, self._drawing_s = 0, 0.0  # of these scores
        self._raised: Exception | None = None  # by `finish`, so that it is told once

    def begin(self, weights: np.ndarray, num_rounds_done: int) -> None:
        """Have the clients draw with the backbone (P,), and begin to score what they drew."""
        self.finish()
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
        scores = Future[tuple[Evaluation, float]]()

        def work_out() -> None:
            try:
                began = time.monotonic()
                scores.set_result((score(), time.monotonic() - began))
            except BaseException as error:
                scores.set_exception(error)

        # A process that ends does not wait for it, as it would for a pool's thread.
        threading.Thread(target=work_out, name="scores", daemon=True).start()
        self._num_rounds_done, self._drawing_s = num_rounds_done, time.monotonic() - began
        self._scores = scores
        if self.watcher.may_stop:
            self.finish()

    def finish(self, limit_s: float | None = None) -> bool:
        """Wait for scores that were begun, at most so long, and record them.

        Returns whether there is nothing to wait for any more; lets the scores' own error out.
        """
        if self._scores is None:
            return True
        try:
            if self._scores not in wait([self._scores], limit_s).done:
                return False
            self._record(*self._scores.result())
        except Exception as error:
            self._raised = error
            raise
        return True

    def _record(self, evaluation: Evaluation, scoring_s: float) -> None:
        real, setting = self.result.real, self.result.setting
        seconds = {"time/evaluate_s": self._drawing_s + scoring_s}
        log_evaluation(self.tracker, evaluation, real, seconds)
        save_evaluation(self.result.run_dir, evaluation)
        self._scores = None  # not before: an interrupted record is done again
        self.result.evaluations.append(evaluation)
        self.watcher.evaluated(evaluation, real.floor_mean(setting.eval_ids))

    def lacks_scores_before(self, num_rounds_done: int) -> bool:
        """Return whether scores of an earlier state than that after so many rounds are not there.

        A run that went on from that state would never evaluate the earlier one again.
        """
        return self._scores is not None and self._num_rounds_done < num_rounds_done

    def end(self) -> bool:
        """Do as `finish`, for a run that ends before its time: say what is lost, and how."""
        try:
            if self.finish(ENDING_S):
                return True
            lost = f"still being worked out after {ENDING_S:g} s"
        except Exception as error:
            lost = str(error)
        _log.warning("scores of the last evaluation are lost: %s", lost)
        self._scores = None
        return False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None:
            self.finish()
        elif error is not self._raised:
            self.end()
