"""The driver: owns the server's state and runs the rounds of FedAvg over a client pool.

Its process, which may be an actor of its own, imports no torch: it combines numpy arrays.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import numpy as np

from pipeline.federation.collecting import Collector
from pipeline.federation.gathering import Gatherer, OpenRound
from pipeline.federation.pool import ClientPool
from pipeline.federation.private_rounds import PrivateRounds
from pipeline.federation.rounds import RoundSettings, RoundStats, RoundTimer
from pipeline.federation.secure_sums import SecureSums
from spire_core.federated.participation import choose_cohort, responding_clients
from spire_core.federated.private_updates import NOISE
from spire_core.federated.server import ServerState, aggregate


class RoundDriver(Protocol):
    """A driver as an experiment sees it, in this process or in another."""

    def run_round(self, kept_rounds: tuple[int, ...] = ()) -> RoundStats:
        """Run the next round and return its record; `kept_rounds` as in `RoundPlan`."""
        ...

    def model_weights(self) -> np.ndarray:
        """Return the weights (P,) for the clients' use."""
        ...

    def last(self) -> tuple[ServerState, RoundStats | None]:
        """Return state and record of the last finished round; no record before the first one.

        Raises ClusterError if the driver's process does not answer.
        """
        ...

    def save_state(self, path: Path) -> Callable[[], int]:
        """Begin to write the server's present state.

        Returns a function that waits for the end of it and returns the number of its round.
        """
        ...

    def flush(self) -> None:
        """Let the functions that `save_state` returned wait for nothing but the writing."""
        ...

    def close(self) -> None:
        """End the driver's process, if it has one of its own."""
        ...


class Driver:
    """Runs rounds one at a time. It never holds an embedding: clients send shared weights only."""

    def __init__(
        self,
        pool: ClientPool,
        state: ServerState,
        settings: RoundSettings,
        on_gathered: Callable[[], None] = lambda: None,
    ) -> None:
        """Start from a state; `on_gathered` is called when a round's updates are there."""
        self.pool, self.settings, self.on_gathered = pool, settings, on_gathered
        self.gatherer = Gatherer(pool, settings)
        self.secure_sums = SecureSums(pool)
        self.collector = Collector(self.gatherer, self.secure_sums)
        guarantee = settings.guarantee
        self.private = None if guarantee is None else PrivateRounds(pool, guarantee)
        self._last: tuple[ServerState, RoundStats | None] = (state, None)  # replaced at once

    @property
    def state(self) -> ServerState:
        """The server's state after the last finished round."""
        return self._last[0]

    def run_round(self, kept_rounds: tuple[int, ...] = ()) -> RoundStats:
        """Run the next round and return its record; `kept_rounds` as in `RoundPlan`."""
        settings, federation, state = self.settings, self.settings.federation, self.state
        seed, round_idx, timer = settings.seed, state.round_idx, RoundTimer(self.pool)
        # 1. Choose the cohort, and the clients of it that respond.
        cohort = self._cohort(state)
        chances = (federation.drop_rate, seed, round_idx, self.private is not None)
        responding = responding_clients(cohort, *chances)
        plan = settings.plan(round_idx, kept_rounds, responding)
        if self.private is not None:
            plan = self.private.plan(plan, state, len(responding))
        if federation.secure_aggregation and cohort:  # also with those that then drop out
            plan = replace(plan, masking=self.secure_sums.open(f"round {round_idx}", cohort))
        # 2. Hand out the backbone.
        broadcast = state.broadcast
        average = None if self.private is None else federation.cohort_size
        groups = settings.client.groups(responding, average)
        round_ = OpenRound(plan, state, self.pool.share(broadcast), groups)
        timer.dispatched()
        # 3. Have the clients train; their updates are accumulated where they are made.
        noise = [] if self.private is None else [NOISE]
        reports = self.gatherer.gather([*noise, *responding], round_)
        timer.gathered()
        self.on_gathered()
        # 4. Average.
        mean, reports = self.collector.collect(reports, round_)
        after = aggregate(state, mean, settings.server)
        included = [reports[client_id] for client_id in sorted(reports.keys() - {NOISE})]
        stats = timer.stats(plan, cohort, responding, included, broadcast.num_bytes, mean.loss)
        if self.private is not None:
            after = self.private.after(after, state, mean)
            stats = self.private.stats(stats, reports[NOISE].num_bytes, broadcast.num_bytes)
        self._last = (after, stats)
        return stats

    def _cohort(self, state: ServerState) -> list[int]:
        if self.private is not None:
            return self.private.cohort(state)
        federation = self.settings.federation
        sizes = (federation.num_clients, federation.cohort_size)
        return choose_cohort(*sizes, self.settings.seed, state.round_idx)

    def model_weights(self) -> np.ndarray:
        """Return the weights (P,) for the clients' use: the moving average."""
        return self.state.ema if self.settings.server.ema > 0 else self.state.weights

    def last(self) -> tuple[ServerState, RoundStats | None]:
        """Return state and record of the last finished round; no record before the first one."""
        return self._last
