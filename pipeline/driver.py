"""The driver: owns the server's state and runs the rounds of FedAvg over a client pool."""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from pipeline.config import FederationConfig
from pipeline.pool import MAX_TRIES, ClientFailure, ClientPool
from spire_core.client import ClientUpdate, RoundPlan
from spire_core.errors import AggregationError
from spire_core.methods import MethodConfig
from spire_core.rng import numpy_generator, torch_generator
from spire_core.server import ServerConfig, ServerState, aggregate, fault_of
from spire_core.training import ClientConfig

SPARSE_FROM = 100_000  # clients
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RoundStats:
    """What one round did: mean loss weighted by examples, bytes on the wire, seconds by step.

    `dispatch_s` is the part of `train_s` before any client is asked to train; `idle_fraction` the
    share of `train_s` in which a worker has nothing to do, mean over workers.
    """

    round_idx: int
    loss: float
    up_bytes: int
    down_bytes: int
    num_steps: int
    num_dropped: int
    train_s: float
    aggregate_s: float
    dispatch_s: float
    idle_fraction: float


def choose_cohort(num_clients: int, cohort_size: int, seed: int, round_idx: int) -> list[int]:
    """Return this round's clients in ascending order, drawn without replacement.

    From `SPARSE_FROM` clients on in time that depends on the cohort alone.
    """
    if num_clients >= SPARSE_FROM:
        rng = numpy_generator(seed, "cohort", round_idx)
        return sorted(rng.choice(num_clients, cohort_size, replace=False).tolist())
    generator = torch_generator(seed, "cohort", round_idx)
    return sorted(torch.randperm(num_clients, generator=generator)[:cohort_size].tolist())


class Driver:
    """Runs rounds one at a time. It holds no embedding ever: clients return shared weights only."""

    def __init__(
        self,
        pool: ClientPool,
        state: ServerState,
        federation: FederationConfig,
        client: ClientConfig,
        server: ServerConfig,
        method: MethodConfig,
        num_examples: Sequence[int],
        seed: int,
        shared_size: int,
    ) -> None:
        """Take the state to go on from, and all that stays the same over the rounds.

        `shared_size`: length of the stretch of weights that is always shared.
        """
        self.pool, self.federation = pool, federation
        self.client, self.server, self.method = client, server, method
        self.num_examples, self.seed, self.shared_size = num_examples, seed, shared_size
        self.state = state
        self.stats: RoundStats | None = None

    def run_round(self, kept_rounds: tuple[int, ...] = ()) -> RoundStats:
        """Run the next round and return what it did; `kept_rounds` as in `RoundPlan`."""
        round_idx, federation = self.state.round_idx, self.federation
        began = time.monotonic()
        # 1. Choose the cohort.
        cohort = choose_cohort(federation.num_clients, federation.cohort_size, self.seed, round_idx)
        plan = self._plan(round_idx, kept_rounds)
        # 2. Hand out the backbone.
        broadcast = self.state.broadcast
        handle = self.pool.share(broadcast)
        dispatched, busy_s = time.monotonic(), self.pool.busy_s
        # 3. Gather the updates.
        updates, num_dropped = self._gather(self.client.groups(cohort), handle, plan)
        gathered, busy_s = time.monotonic(), self.pool.busy_s - busy_s
        # 4. Aggregate.
        self.state = aggregate(self.state, updates, self.server)
        examples = sum(u.num_examples for u in updates)
        self.stats = RoundStats(
            round_idx=round_idx,
            loss=sum(u.loss * u.num_examples for u in updates) / examples,
            up_bytes=sum(u.num_bytes for u in updates),
            down_bytes=broadcast.num_bytes * len(cohort),
            num_steps=sum(u.num_steps for u in updates),
            num_dropped=num_dropped,
            train_s=gathered - began,
            aggregate_s=time.monotonic() - gathered,
            dispatch_s=dispatched - began,
            idle_fraction=max(0.0, 1 - busy_s / self.pool.num_workers / (gathered - began)),
        )
        return self.stats

    def _gather(
        self, groups: list[tuple[int, ...]], handle: Any, plan: RoundPlan
    ) -> tuple[list[ClientUpdate], int]:
        """Return the updates that can be used, by client id, and how many clients were dropped.

        Raises ClusterError or AggregationError, as `federation.on_client_error` says.
        """
        policy, where = self.federation.on_client_error, f" in round {plan.round_idx}"
        usable: list[ClientUpdate] = []
        left, fault = list(groups), ""
        for _ in range(MAX_TRIES if policy == "retry" else 1):
            costs = [sum(self._cost(plan, client_id) for client_id in group) for group in left]
            results = self.pool.run(
                "fit_group", left, handle, plan, costs=costs, on_error=policy, where=where
            )
            again = []
            for group, result in zip(left, results, strict=True):
                updates = [] if isinstance(result, ClientFailure) else result
                faults = {u.client_id: why for u in updates if (why := self._fault(u, plan))}
                for client_id, why in faults.items():
                    fault = f"{why} from client {client_id}{where}"
                    logger.warning("refused %s", fault)
                if faults and policy != "drop":  # the numbers of a group belong together
                    again.append(group)
                else:
                    usable += [u for u in updates if u.client_id not in faults]
            left = again
            if not left:
                break
        if left:
            raise AggregationError(
                f"expected an update that can be averaged, got {fault}: lower client.lr, or set "
                "federation.on_client_error=drop"
            )
        num_clients = sum(len(group) for group in groups)
        return sorted(usable, key=lambda u: u.client_id), num_clients - len(usable)

    def _fault(self, update: ClientUpdate, plan: RoundPlan) -> str | None:
        size = self.shared_size if not plan.shares_local else self.state.weights.size
        return fault_of(update, self.state.weights[:size], self.federation.max_update_norm)

    def _plan(self, round_idx: int, kept_rounds: tuple[int, ...]) -> RoundPlan:
        federation = self.federation
        return RoundPlan(
            round_idx=round_idx,
            lr_scale=self.client.lr_scale(round_idx, federation.num_rounds),
            shares_local=round_idx < self.method.num_shared_rounds(federation.num_rounds),
            tau=federation.tau,
            local_epochs=federation.local_epochs,
            kept_rounds=kept_rounds,
        )

    def _cost(self, plan: RoundPlan, client_id: int) -> float:
        return float(plan.num_steps(self.num_examples[client_id], self.client.batch_size))

    def model_weights(self) -> np.ndarray:
        """Return the weights (P,) that clients are given to use: the moving average."""
        return self.state.ema if self.server.ema > 0 else self.state.weights

    def server_state(self) -> ServerState:
        """Return all that the server holds."""
        return self.state

    def last_stats(self) -> RoundStats | None:
        """Return what the last round of this driver did, or None before its first one."""
        return self.stats

    def close(self) -> None:
        """Nothing to release here; a driver in an actor of its own ends it."""
