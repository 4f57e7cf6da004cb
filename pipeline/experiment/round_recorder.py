"""A round in a run's record: its metrics."""

import time

from pipeline.clients.memory import peak_bytes
from pipeline.config.federation import FederationConfig
from pipeline.federation.driver import RoundDriver
from pipeline.federation.round_loop import RoundListener
from pipeline.federation.rounds import RoundStats
from pipeline.results.metric_names import DELTA, EPSILON, RSS
from pipeline.results.metrics import round_metrics
from pipeline.tracking.system_load import SystemLoad
from pipeline.tracking.tracker import Tracker
from spire_core.federated.server import ServerState
from spire_core.privacy.guarantee import RoundsGuarantee

NUM_EPSILONS = 20  # of a run: each takes a second where clients are sampled


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

    def after_round(self, stats: RoundStats, driver: RoundDriver) -> None:
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
