"""The driver: owns the server's state and runs the rounds of FedAvg over a client pool.

Its process, which may be an actor of its own, imports no torch: it combines numpy arrays.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from pipeline.federation.collecting import Group, collect
from pipeline.federation.pool import ClientPool
from pipeline.federation.private_rounds import PrivateRounds
from pipeline.federation.rounds import RoundSettings, RoundStats, RoundTimer
from spire_core.federated.messages import ClientReport, RoundPlan
from spire_core.federated.participation import choose_cohort, responding_clients
from spire_core.federated.server import ServerState, aggregate
from spire_core.federated.sums import MeanUpdate, UpdateSum


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

    def close(self) -> None:
        """End the driver's process, if it has one of its own."""
        ...


class Driver:
    """Runs rounds one at a time. It never holds an embedding: clients send shared weights only."""

    def __init__(self, pool: ClientPool, state: ServerState, settings: RoundSettings) -> None:
        self.pool, self.settings = pool, settings
        guarantee = settings.guarantee
        self.private = None if guarantee is None else PrivateRounds(pool, guarantee)
        self._last: tuple[ServerState, RoundStats | None] = (state, None)  # replaced at once

    @property
    def state(self) -> ServerState:
        """The server's state after the last finished round."""
        return self._last[0]

    def run_round(self, kept_rounds: tuple[int, ...] = ()) -> RoundStats:
        """Run the next round and return its record; `kept_rounds` as in `RoundPlan`."""
        settings, state, timer = self.settings, self.state, RoundTimer(self.pool)
        # 1. Choose the cohort, and the clients of it that respond.
        cohort = self._cohort(state)
        drop_rate, is_private = settings.federation.drop_rate, self.private is not None
        draws = (settings.seed, state.round_idx, is_private)
        responding = responding_clients(cohort, drop_rate, *draws)
        plan = settings.plan(state.round_idx, kept_rounds, responding)
        if self.private is not None:
            plan = self.private.plan(plan, state)
        # 2. Hand out the backbone.
        handle = self.pool.share(state.broadcast)
        average = settings.federation.cohort_size if is_private else None
        groups = settings.client.groups(responding, average)
        timer.dispatched()
        # 3. Have the clients train; each worker adds up the updates that are made there.
        reports: dict[int, ClientReport] = {}

        def compute(some: Sequence[Group]) -> None:
            costs = [settings.cost(plan, group) for group in some]
            where = f" in round {plan.round_idx}"
            for found in self.pool.run_all("fit", some, handle, plan, costs=costs, where=where):
                reports.update({report.client_id: report for report in found})
            timer.gathered()

        # 4. Average.
        total = collect(self.pool, groups, compute, lambda: self._total(plan, handle))
        mean = self._mean(total, plan)
        after = aggregate(state, mean, settings.server)
        included = [reports[client_id] for client_id in sorted(reports)]
        sent = state.broadcast.num_bytes
        stats = timer.stats(plan, cohort, included, sent, mean.loss)
        if self.private is not None:
            size = settings.update_format(plan, state.broadcast).size
            after = self.private.after(after, state, mean)
            stats = self.private.stats(stats, 8 * size, sent)
        self._last = (after, stats)
        return stats

    def _cohort(self, state: ServerState) -> list[int]:
        if self.private is not None:
            return self.private.cohort(state)
        federation = self.settings.federation
        sizes = (federation.num_clients, federation.cohort_size)
        return choose_cohort(*sizes, self.settings.seed, state.round_idx)

    def _total(self, plan: RoundPlan, handle: Any) -> Any:
        """Return the sum of all workers' sums; of hidden updates, that is all that comes here."""
        if plan.hides_updates:
            more = (handle, plan)
            return self.pool.combined("sum_of", "hidden_total", plan.round_idx, combine_args=more)
        broadcast = self.state.broadcast
        total = UpdateSum(broadcast, self.settings.update_shape(plan, broadcast.weights.size))
        for part in self.pool.each("sum_of", plan.round_idx):
            if part is not None:
                total.merge(part)
        return total

    def _mean(self, total: Any, plan: RoundPlan) -> MeanUpdate:
        if not plan.hides_updates:
            return total.mean()
        return self.settings.update_format(plan, self.state.broadcast).decode(total)

    def model_weights(self) -> np.ndarray:
        """Return the weights (P,) for the clients' use: the moving average."""
        return self.state.ema if self.settings.server.ema > 0 else self.state.weights

    def last(self) -> tuple[ServerState, RoundStats | None]:
        """Return state and record of the last finished round; no record before the first one."""
        return self._last
