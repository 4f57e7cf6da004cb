"""The driver: owns the server's state and runs the rounds of FedAvg over a client pool.

Its process, an actor of its own, imports torch for compressed updates alone: what it sums are
numpy's arrays.
"""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from pipeline.config.federation import FederationConfig
from pipeline.config.schema import Config
from pipeline.federation.pool import MAX_TRIES, ClientFailure, ClientPool
from spire_core.config.client import ClientConfig, choose_engine
from spire_core.config.method import MethodConfig
from spire_core.config.server import ServerConfig
from spire_core.errors import AggregationError, DivergenceError, SpireError
from spire_core.federated.messages import ClientUpdate, CompressedUpdate, RoundPlan
from spire_core.federated.participation import answering, choose_cohort, stragglers
from spire_core.federated.server import ServerState, aggregate
from spire_core.federated.update_checks import Fault, fault_of

if TYPE_CHECKING:
    from spire_core.network.flat_model import Layout

logger = logging.getLogger(__name__)
Sent = ClientUpdate | CompressedUpdate
Received = tuple[dict[int, ClientUpdate], dict[int, Fault]]  # each by client id


@dataclass(frozen=True)
class RoundStats:
    """What one round did: mean loss weighted by examples, bytes on the wire, seconds by step.

    `num_dropped` clients of the cohort are in no average. Of these `num_absent` stayed away by
    chance, and the others failed or were refused; `num_stragglers` that answered fell behind.
    `dispatch_s` is the part of `train_s` before any client is asked to train; `idle_fraction` the
    share of `train_s` in which a worker has nothing to do, mean over workers.
    """

    round_idx: int
    loss: float
    up_bytes: int
    down_bytes: int
    num_steps: int
    num_dropped: int
    num_absent: int
    num_stragglers: int
    train_s: float
    aggregate_s: float
    dispatch_s: float
    idle_fraction: float


@dataclass(frozen=True)
class Rounds:
    """What stays the same over all rounds of a run.

    `num_examples` of each client by its id; `shared_size`: length of the stretch of weights that is
    always shared.
    """

    federation: FederationConfig
    client: ClientConfig
    server: ServerConfig
    method: MethodConfig
    seed: int
    num_examples: Sequence[int]
    shared_size: int

    @classmethod
    def of(cls, config: Config, num_examples: Sequence[int], layout: "Layout") -> "Rounds":
        """Return those of an experiment, with the engine that suits its network."""
        return cls(
            config.federation,
            replace(config.client, engine=choose_engine(config.client, config.model)),
            config.server,
            config.method,
            config.seed,
            num_examples,
            layout.num_without_local,
        )


class RoundDriver(Protocol):
    """A driver as an experiment sees it, in this process or in another."""

    def run_round(self, kept_rounds: tuple[int, ...] = ()) -> RoundStats:
        """Run the next round and return what it did; `kept_rounds` as in `RoundPlan`."""
        ...

    def model_weights(self) -> np.ndarray:
        """Return the weights (P,) that clients are given to use."""
        ...

    def last(self) -> tuple[ServerState, RoundStats | None]:
        """Return what the last finished round left and did, None before this driver's first one."""
        ...

    def save_state(self, path: Path) -> Callable[[], int]:
        """Begin to write all that the server holds now.

        Returns a function that waits for the end of it and returns after how many rounds it was.
        """
        ...

    def flush(self) -> None:
        """Let the functions that `save_state` returned wait for nothing but the writing."""
        ...

    def close(self) -> None:
        """End whatever the driver runs in."""
        ...


class Driver:
    """Runs rounds one at a time. It holds no embedding ever: clients return shared weights only."""

    def __init__(self, pool: ClientPool, state: ServerState, rounds: Rounds) -> None:
        """Take the state to go on from."""
        self.pool, self.rounds = pool, rounds
        self._last: tuple[ServerState, RoundStats | None] = (state, None)  # replaced at once
        if rounds.client.compression != "none":  # now, rather than while clients wait for a round
            import spire_core.federated.compression  # noqa: F401

    @property
    def state(self) -> ServerState:
        """What the last finished round left."""
        return self._last[0]

    def run_round(self, kept_rounds: tuple[int, ...] = ()) -> RoundStats:
        """Run the next round and return what it did; `kept_rounds` as in `RoundPlan`."""
        round_idx, federation, seed = self.state.round_idx, self.rounds.federation, self.rounds.seed
        began = time.monotonic()
        # 1. Choose the cohort, and who of it will answer.
        cohort = choose_cohort(federation.num_clients, federation.cohort_size, seed, round_idx)
        present = answering(cohort, federation.drop_rate, seed, round_idx)
        plan = self._plan(round_idx, kept_rounds, present)
        # 2. Hand out the backbone.
        broadcast = self.state.broadcast
        handle = self.pool.share(broadcast)
        dispatched, busy_s = time.monotonic(), self.pool.busy_s
        # 3. Gather the updates.
        updates = self._gather(self.rounds.client.groups(present), handle, plan)
        gathered, busy_s = time.monotonic(), self.pool.busy_s - busy_s
        # 4. Aggregate.
        state = aggregate(self.state, updates, self.rounds.server)
        examples = sum(u.num_examples for u in updates)
        stats = RoundStats(
            round_idx=round_idx,
            loss=sum(u.loss * u.num_examples for u in updates) / examples,
            up_bytes=sum(u.num_bytes for u in updates),
            down_bytes=broadcast.num_bytes * len(present),
            num_steps=sum(u.num_steps for u in updates),
            num_dropped=len(cohort) - len(updates),
            num_absent=len(cohort) - len(present),
            num_stragglers=sum(u.client_id in plan.stragglers for u in updates),
            train_s=gathered - began,
            aggregate_s=time.monotonic() - gathered,
            dispatch_s=dispatched - began,
            idle_fraction=max(0.0, 1 - busy_s / self.pool.num_workers / (gathered - began)),
        )
        self._last = (state, stats)
        return stats

    def _gather(
        self, groups: list[tuple[int, ...]], handle: Any, plan: RoundPlan
    ) -> list[ClientUpdate]:
        """Return the updates that can be used, by client id.

        Raises ClusterError or AggregationError, as `federation.on_client_error` says, and
        DivergenceError where numbers were driven out of all bounds.
        """
        policy = self.rounds.federation.on_client_error
        usable: dict[int, ClientUpdate] = {}
        left, errors, refused = list(groups), [], []
        for _ in range(MAX_TRIES if policy == "retry" else 1):
            results = self._fit(left, handle, plan)
            if policy == "drop":
                left, results = self._one_by_one(left, results, handle, plan)
            again, errors = [], []
            for group, result in zip(left, results, strict=True):
                updates, error = self._sift(group, result, plan)
                if error is None or policy == "drop":
                    usable |= updates
                    refused.append(error)
                else:  # the numbers of a group belong together
                    again.append(group)
                    errors.append(error)
            left = again
            if not left:
                break
        if errors:
            raise errors[-1]
        if not usable:
            diverged = any(isinstance(error, DivergenceError) for error in refused)
            raise (DivergenceError if diverged else AggregationError)(
                f"expected at least one update that can be averaged in round {plan.round_idx}, got "
                f"none of {sum(map(len, groups))}: see the log above; lower client.lr if they are "
                "refused"
            )
        return self._without_dropped([c for group in groups for c in group], usable, plan)

    def _fit(
        self, groups: list[tuple[int, ...]], handle: Any, plan: RoundPlan
    ) -> list[list[Sent] | ClientFailure]:
        """Return what each group gives when asked once; what a failure means is not said here."""
        costs = [sum(self._cost(plan, client_id) for client_id in group) for group in groups]
        where = f" in round {plan.round_idx}"
        return self.pool.run(
            "fit_group", groups, handle, plan, costs=costs, on_error="drop", where=where
        )

    def _one_by_one(
        self,
        groups: list[tuple[int, ...]],
        results: list[list[Sent] | ClientFailure],
        handle: Any,
        plan: RoundPlan,
    ) -> tuple[list[tuple[int, ...]], list[list[Sent] | ClientFailure]]:
        """Return groups and results where those that failed as a whole were asked client by client.

        One client's fault must not drop those that were computed with it.
        """
        given = dict(zip(groups, results, strict=True))
        failed = [
            group
            for group, result in given.items()
            if isinstance(result, ClientFailure) and len(group) > 1
        ]
        if failed:
            alone = [(client_id,) for group in failed for client_id in group]
            given |= dict(zip(alone, self._fit(alone, handle, plan), strict=True))
            for group in failed:
                del given[group]
        return list(given), list(given.values())

    def _sift(
        self, group: tuple[int, ...], result: list[Sent] | ClientFailure, plan: RoundPlan
    ) -> tuple[dict[int, ClientUpdate], SpireError | None]:
        """Return the updates of a group that can be used, and what is wrong with the others."""
        where = f" in round {plan.round_idx}"
        if isinstance(result, ClientFailure):
            return {}, result.error("fit_group", where)
        updates, faults = self._received(group, result, plan)
        fault = ""
        for client_id, why in faults.items():
            fault = f"{why} from client {client_id}{where}"
            logger.warning("refused %s", fault)
        if not faults:
            return updates, None
        diverged = any(fault.is_divergence for fault in faults.values())
        return updates, (DivergenceError if diverged else AggregationError)(
            f"expected an update that can be averaged, got {fault}: lower client.lr, or set "
            "federation.on_client_error=drop"
        )

    def _received(self, group: tuple[int, ...], sent: list[Sent], plan: RoundPlan) -> Received:
        """Return the updates of a group that can be used, and what is wrong with the others."""
        ids = [one.client_id for one in sent]
        if ids != list(group):
            fault = Fault(f"updates of clients {ids} instead of {list(group)}")
            return {}, dict.fromkeys(group, fault)
        rounds = self.rounds
        size = rounds.shared_size if not plan.shares_local else self.state.weights.size
        has_moments = rounds.client.opt_state == "average"
        limits = (self.state.weights[:size], has_moments, rounds.federation.max_update_norm)
        updates, faults = {}, {}
        for one in sent:
            try:
                update = self._decoded(one)
            except ValueError as error:
                faults[one.client_id] = Fault(str(error))
                continue
            fault = fault_of(update, *limits)
            if fault is None:
                updates[one.client_id] = update
            else:
                faults[one.client_id] = fault
        return updates, faults

    def _decoded(self, sent: Sent) -> ClientUpdate:
        """Return the update that was sent; ValueError, in words, for what was not asked for."""
        config = self.rounds.client
        if config.compression == "none" and isinstance(sent, ClientUpdate):
            return sent
        from spire_core.federated.compression import decompress

        return decompress(sent, self.state.weights, config)

    def _without_dropped(
        self, client_ids: list[int], usable: dict[int, ClientUpdate], plan: RoundPlan
    ) -> list[ClientUpdate]:
        """Return the usable updates by client id; for the others the round did not happen."""
        dropped = [client_id for client_id in client_ids if client_id not in usable]
        if dropped:  # what broke an update may also have spoiled what the client keeps
            self.pool.run("undo_round", dropped, plan.round_idx)
        return [usable[client_id] for client_id in sorted(usable)]

    def _plan(
        self, round_idx: int, kept_rounds: tuple[int, ...], client_ids: list[int]
    ) -> RoundPlan:
        rounds, federation = self.rounds, self.rounds.federation
        return RoundPlan(
            round_idx=round_idx,
            lr_scale=rounds.client.lr_scale(round_idx, federation.num_rounds),
            shares_local=round_idx < rounds.method.num_shared_rounds(federation.num_rounds),
            tau=federation.tau,
            local_epochs=federation.local_epochs,
            kept_rounds=kept_rounds,
            stragglers=stragglers(client_ids, federation.straggler_rate, rounds.seed, round_idx),
            straggler_work=federation.straggler_work,
        )

    def _cost(self, plan: RoundPlan, client_id: int) -> float:
        num_examples = self.rounds.num_examples[client_id]
        return float(plan.num_steps(client_id, num_examples, self.rounds.client.batch_size))

    def model_weights(self) -> np.ndarray:
        """Return the weights (P,) that clients are given to use: the moving average."""
        return self.state.ema if self.rounds.server.ema > 0 else self.state.weights

    def last(self) -> tuple[ServerState, RoundStats | None]:
        """Return what the last finished round left and did, None before this driver's first one."""
        return self._last
