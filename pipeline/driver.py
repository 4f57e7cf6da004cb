"""The driver: owns the server's state and runs the rounds of FedAvg over a client pool."""

import time
from dataclasses import dataclass

import numpy as np
import torch

from pipeline.config import FederationConfig
from pipeline.pool import ClientPool
from spire_core.client import ClientUpdate, RoundPlan
from spire_core.methods import MethodConfig
from spire_core.rng import torch_generator
from spire_core.server import ServerConfig, ServerState, aggregate
from spire_core.training import ClientConfig


@dataclass(frozen=True)
class RoundStats:
    """What one round did: mean loss weighted by examples, bytes on the wire, seconds by step."""

    round_idx: int
    loss: float
    up_bytes: int
    down_bytes: int
    num_steps: int
    train_s: float
    aggregate_s: float


def choose_cohort(num_clients: int, cohort_size: int, seed: int, round_idx: int) -> list[int]:
    """Return this round's clients in ascending order, drawn without replacement."""
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
        num_examples: list[int],
        seed: int,
    ) -> None:
        """Take the state to go on from, and all that stays the same over the rounds."""
        self.pool, self.federation = pool, federation
        self.client, self.server, self.method = client, server, method
        self.num_examples, self.seed = num_examples, seed
        self.state = state

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
        # 3. Gather the updates.
        groups = self.client.groups(cohort)
        costs = [sum(self._cost(plan, c) for c in group) for group in groups]
        results = self.pool.run("fit_group", groups, handle, plan, costs=costs)
        updates: list[ClientUpdate] = [update for result in results for update in result]
        gathered = time.monotonic()
        # 4. Aggregate.
        self.state = aggregate(self.state, updates, self.server)
        examples = sum(u.num_examples for u in updates)
        return RoundStats(
            round_idx=round_idx,
            loss=sum(u.loss * u.num_examples for u in updates) / examples,
            up_bytes=sum(u.num_bytes for u in updates),
            down_bytes=broadcast.num_bytes * len(cohort),
            num_steps=sum(u.num_steps for u in updates),
            train_s=gathered - began,
            aggregate_s=time.monotonic() - gathered,
        )

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

    def close(self) -> None:
        """Nothing to release here; a driver in an actor of its own ends it."""
