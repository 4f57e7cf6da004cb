"""A round in a run's record: its metrics, and whether others took part than when it was new."""

import logging
import math
import time
from collections.abc import Mapping
from pathlib import Path

from pipeline.clients.memory import peak_bytes
from pipeline.config.federation import FederationConfig
from pipeline.federation.driver import RoundDriver
from pipeline.federation.round_loop import RoundListener
from pipeline.federation.rounds import RoundStats
from pipeline.results.metric_names import DELTA, DROPPED, EPSILON, RSS, TRAIN_LOSS
from pipeline.results.metrics import round_metrics
from pipeline.tracking.outbox import read_points
from pipeline.tracking.system_load import SystemLoad
from pipeline.tracking.tracker import Tracker
from spire_core.federated.server import ServerState
from spire_core.privacy.rounds import RoundsGuarantee

logger = logging.getLogger(__name__)
LOSS_TOLERANCE = 1e-5  # relative, of a round that a GPU computes again with other last bits
Recorded = tuple[float, float | None]  # a round's number of dropped clients, and its loss
NUM_EPSILONS = 20  # of a run: each takes a second where clients are sampled


def recorded_rounds(run_dir: Path, num_rounds_done: int) -> dict[int, Recorded]:
    """Return the number of dropped clients and the loss of the rounds after these, by step.

    They are rounds that a crash took from the run, which computes them again.
    """
    points = [one for one in read_points(run_dir) if one[0] > num_rounds_done]
    return {s: (one[DROPPED], one.get(TRAIN_LOSS)) for s, one in points if DROPPED in one}


class RoundRecorder(RoundListener):
    """Records every round's metrics, also those of a last round that an interrupt follows."""

    def __init__(
        self,
        tracker: Tracker,
        federation: FederationConfig,
        guarantee: RoundsGuarantee | None = None,
        load: SystemLoad | None = None,
        recorded: Mapping[int, Recorded] | None = None,
    ) -> None:
        """`recorded`: `recorded_rounds` of an earlier process. `load`: not with a `guarantee`."""
        self.tracker, self.federation, self.guarantee = tracker, federation, guarantee
        self.load, self.recorded = load, dict(recorded or {})
        self._num_recorded = 0  # rounds
        self._track_s = 0.0  # is known when a round has been recorded: the next one reports it

    def begin_rounds(self, rounds: range) -> None:
        self._num_recorded = rounds.start

    def after_round(self, stats: RoundStats, driver: RoundDriver) -> None:
        began = time.monotonic()
        self._record(stats)
        self._track_s, self._num_recorded = time.monotonic() - began, stats.round_idx + 1

    def interrupted(self, state: ServerState, stats: RoundStats | None) -> None:
        if stats is not None and stats.round_idx >= self._num_recorded:
            self._record(stats)

    def _record(self, stats: RoundStats) -> None:
        metrics = round_metrics(stats, self._track_s, self.federation)
        metrics |= self._machine() if self.guarantee is None else self._spent(stats, self.guarantee)
        self.tracker.log_metrics(metrics, step=stats.round_idx + 1)
        if self._is_of_another_course(stats):
            self._warn_of_other_course(stats.round_idx + 1)

    def _is_of_another_course(self, stats: RoundStats) -> bool:
        """Return whether other clients were dropped than when the round was recorded.

        Their number tells, or the loss: that of other clients is another.
        """
        now = (stats.num_dropped, stats.loss)
        num_dropped, loss = self.recorded.get(stats.round_idx + 1, now)
        is_same = num_dropped == stats.num_dropped
        may_drop = self.federation.on_client_error == "drop"
        if may_drop and loss is not None and stats.loss is not None:
            is_same = is_same and math.isclose(loss, stats.loss, rel_tol=LOSS_TOLERANCE)
        return not is_same

    def _warn_of_other_course(self, step: int) -> None:
        """Say that what is recorded from this step on was of rounds that others took part in."""
        last = max(self.recorded)
        self.recorded = {}
        logger.warning(
            "round %d was computed again without the same clients: the points of rounds %d to %d "
            "are those of its first time, and the result is of the second",
            step,
            step,
            last,
        )
        self.tracker.log_tags({"spire.rounds_of_another_course": f"{step}-{last}"})

    def _machine(self) -> dict[str, float]:
        """Return what the machine has in use, which may depend on who takes part."""
        return {RSS: peak_bytes(), **({} if self.load is None else self.load.sample())}

    def _spent(self, stats: RoundStats, guarantee: RoundsGuarantee) -> dict[str, float]:
        """Return the privacy that the rounds so far have spent, at `NUM_EPSILONS` rounds or so."""
        done, num_rounds = stats.round_idx + 1, self.federation.num_rounds
        is_due = done % max(1, num_rounds // NUM_EPSILONS) == 0 or done == num_rounds
        return {EPSILON: guarantee.spent(done), DELTA: guarantee.delta} if is_due else {}
