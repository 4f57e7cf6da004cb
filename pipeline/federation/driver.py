"""The driver: owns the server's state and runs the rounds of FedAvg over a client pool.

Its process, which may be an actor of its own, imports no torch: it combines numpy arrays.

In a round with differential privacy the server is trusted with the clients' clipped changes, as in
all central differential privacy, and publishes noisy sums alone. Noise and cohorts come from the
run's secret key, which a worker reads: the noise joins the sum there, so that the driver never
holds one without it.
"""

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from pipeline.federation.pool import ClientPool, Group, collect
from pipeline.federation.rounds import RoundSettings, RoundStats
from pipeline.runs.server_state import write_state
from spire_core.federated.messages import ClientReport
from spire_core.federated.participation import choose_cohort, responding_clients
from spire_core.federated.private_updates import NOISE
from spire_core.federated.server import ServerState, aggregate


class Driver:
    """Runs rounds one at a time. It never holds an embedding: clients send shared weights only.

    An experiment has one in this process, or a `RemoteDriver` in its place.
    """

    def __init__(self, pool: ClientPool, state: ServerState, settings: RoundSettings) -> None:
        self.pool, self.settings = pool, settings
        self._last: tuple[ServerState, RoundStats | None] = (state, None)  # replaced at once

    @property
    def state(self) -> ServerState:
        """The server's state after the last finished round."""
        return self._last[0]

    def run_round(self, kept_rounds: tuple[int, ...] = ()) -> RoundStats:
        """Run the next round and return its record; `kept_rounds` as in `RoundPlan`."""
        settings, state, pool, began = self.settings, self.state, self.pool, time.monotonic()
        config, guarantee = settings.config, settings.guarantee
        # 1. Choose the cohort, and the clients of it that respond.
        cohort, is_private = self._cohort(state), guarantee is not None
        drop_rate, seed = config.federation.drop_rate, config.seed
        responding = responding_clients(cohort, drop_rate, seed, state.round_idx, is_private)
        plan = settings.plan(state, kept_rounds, responding)
        # 2. Hand out the backbone.
        handle, sent_bytes = pool.share(state.broadcast), state.broadcast.num_bytes
        average = config.federation.cohort_size if is_private else None
        groups = settings.client.groups(responding, average)
        groups.sort(key=lambda group: -settings.cost(plan, group))  # the longest begins first
        if is_private:
            groups.append((NOISE,))
        dispatched = gathered = time.monotonic()
        busy_before_s, reports = pool.busy_s, dict[int, ClientReport]()

        # 3. Have the clients train; each worker adds up the updates that are made there.
        def compute(some: Sequence[Group]) -> None:
            nonlocal gathered
            for found in pool.run_all("fit", some, handle, plan):
                reports.update({report.client_id: report for report in found})
            gathered = time.monotonic()

        total = collect(pool, plan.round_idx, groups, compute)
        # 4. Average.
        if plan.hides_updates:
            mean = settings.update_format(plan, state.broadcast).decode(total)
        else:
            mean = replace(total.mean(), loss=_mean_loss(reports))
        after = aggregate(state, mean, config.server, config.method.record.server_step)
        train_s, busy_s = gathered - began, pool.busy_s - busy_before_s
        stats = RoundStats(
            round_idx=plan.round_idx,
            loss=mean.loss,
            up_bytes=sum(report.num_bytes for report in reports.values()),
            down_bytes=sent_bytes * len(reports),
            num_steps=sum(report.num_steps for report in reports.values()),
            num_dropped=len(cohort) - len(reports),
            train_s=train_s,
            aggregate_s=time.monotonic() - gathered,
            dispatch_s=dispatched - began,
            idle_fraction=max(0.0, 1 - busy_s / pool.num_workers / train_s),
        )
        if guarantee is not None and plan.private is not None:
            releases = 0.0 if state.releases is None else state.releases[0]
            clip_norm = guarantee.next_clip(plan.private.clip_norm, mean.share_within)
            after = replace(
                after, releases=np.array([releases + 1]), clip_norm=np.array([clip_norm])
            )
            # Nothing tells who took part: bytes are those of a cohort of the expected size.
            size = guarantee.cohort_size
            up_bytes, down_bytes = size * 8 * total.numbers.size, size * sent_bytes
            stats = replace(
                stats, up_bytes=up_bytes, down_bytes=down_bytes, num_steps=0, num_dropped=0
            )
        self._last = (after, stats)
        return stats

    def _cohort(self, state: ServerState) -> list[int]:
        """Return the next round's clients; those of a private one are drawn one by one, maybe none.

        Raises BudgetError if the round would exceed the budget.
        """
        config, guarantee = self.settings.config, self.settings.guarantee
        if guarantee is None:
            federation = config.federation
            sizes = federation.num_clients, federation.cohort_size
            return choose_cohort(*sizes, config.seed, state.round_idx)
        guarantee.check(0 if state.releases is None else int(state.releases[0]))
        [cohort] = self.pool.run_all("private_cohort", [NOISE], state.round_idx)
        return cohort

    def model_weights(self) -> np.ndarray:
        """Return the weights (P,) for the clients' use: the moving average."""
        return self.state.ema if self.settings.config.server.ema > 0 else self.state.weights

    def last(self) -> tuple[ServerState, RoundStats | None]:
        """Return state and record of the last finished round; no record before the first one.

        Raises ClusterError if the driver's process does not answer.
        """
        return self._last

    def save_state(self, path: Path) -> Callable[[], int]:
        """Begin to write the server's present state.

        Returns a function that waits for the end of it and returns the number of its round.
        """
        return functools.partial(write_state, path, self.state)

    def close(self) -> None:
        """End the driver's process, if it has one of its own."""


def _mean_loss(reports: Mapping[int, ClientReport]) -> float:
    """Return the mean loss over examples."""
    total = 0.0
    for client_id in sorted(reports):  # from Python 3.12 on, `sum` carries lost digits along
        total += (reports[client_id].loss or 0.0) * reports[client_id].num_examples
    return total / sum(report.num_examples for report in reports.values())
