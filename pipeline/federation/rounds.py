"""The settings that all rounds of a run share, and the record of a single one."""

import functools
import operator
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.config.federation import FederationConfig
from pipeline.config.schema import Config
from pipeline.federation.pool import ClientPool
from spire_core.config.client import ClientConfig
from spire_core.config.method import MethodConfig
from spire_core.config.server import ServerConfig
from spire_core.federated.messages import Broadcast, ClientReport, RoundPlan
from spire_core.federated.private_updates import ClippedFormat
from spire_core.federated.sums import SecureFormat, UpdateShape
from spire_core.privacy.guarantee import RoundsGuarantee

if TYPE_CHECKING:
    from spire_core.network.flat_model import Layout


@dataclass(frozen=True)
class RoundSettings:
    """The constants of a run's rounds.

    `num_examples` of each client by its id; `shared_size`: length of the stretch of weights that is
    shared in every round; `guarantee`: the driver's promise to the clients, if it gives one.
    """

    federation: FederationConfig
    client: ClientConfig
    server: ServerConfig
    method: MethodConfig
    seed: int
    num_examples: Sequence[int]
    shared_size: int
    guarantee: RoundsGuarantee | None = None

    @classmethod
    def of(cls, config: Config, num_examples: Sequence[int], layout: "Layout") -> "RoundSettings":
        """Return those of an experiment."""
        return cls(
            config.federation,
            config.resolved_client,
            config.server,
            config.method,
            config.seed,
            num_examples,
            layout.num_without_local,
        )

    def plan(
        self, round_idx: int, kept_rounds: tuple[int, ...], client_ids: Sequence[int]
    ) -> RoundPlan:
        """Return the plan of a round for the clients that respond; `kept_rounds` as it has them."""
        federation = self.federation
        return RoundPlan(
            round_idx=round_idx,
            lr_scale=self.client.lr_scale(round_idx, federation.num_rounds),
            shares_local=round_idx < self.method.num_shared_rounds(federation.num_rounds),
            num_examples=sum(self.num_examples[client_id] for client_id in client_ids),
            tau=federation.tau,
            local_epochs=federation.local_epochs,
            kept_rounds=kept_rounds,
            is_secure=federation.secure_aggregation,
        )

    def update_shape(self, plan: RoundPlan, num_weights: int) -> UpdateShape:
        """Return the arrays of a round's updates, for a network of so many weights."""
        size = num_weights if plan.shares_local else self.shared_size
        return UpdateShape(size, self.client.opt_state == "average", plan.num_examples)

    def update_format(self, plan: RoundPlan, broadcast: Broadcast) -> SecureFormat | ClippedFormat:
        """Return how a round's updates become integers."""
        shape = self.update_shape(plan, broadcast.weights.size)
        if plan.private is not None:
            return ClippedFormat(broadcast, shape.size, plan.private)
        return SecureFormat(broadcast, shape)

    def cost(self, plan: RoundPlan, client_ids: Sequence[int]) -> float:
        """Return the optimizer steps of these clients in a round, all together."""
        batch_size = self.client.batch_size
        return float(sum(plan.num_steps(self.num_examples[c], batch_size) for c in client_ids))


@dataclass(frozen=True)
class RoundStats:
    """A round in numbers: mean loss weighted by examples, bytes on the wire, seconds by step.

    A private round has no loss, and counts of nobody.

    `num_dropped` clients of the cohort stayed away by chance. `dispatch_s` is the part of `train_s`
    before any client is asked to train. `idle_fraction` is the share of `train_s` in which a worker
    has nothing to do, mean over workers.
    """

    round_idx: int
    loss: float | None
    up_bytes: int
    down_bytes: int
    num_steps: int
    num_dropped: int
    train_s: float
    aggregate_s: float
    dispatch_s: float
    idle_fraction: float


class RoundTimer:
    """Takes the times of one round, from its construction on."""

    def __init__(self, pool: ClientPool) -> None:
        self._pool, self._began = pool, time.monotonic()

    def dispatched(self) -> None:
        """Note that the backbone is handed out."""
        self._dispatched, self._busy_before_s = time.monotonic(), self._pool.busy_s

    def gathered(self) -> None:
        """Note that all clients have trained."""
        self._gathered, self._busy_s = time.monotonic(), self._pool.busy_s - self._busy_before_s

    def stats(
        self,
        plan: RoundPlan,
        cohort: Sequence[int],
        reports: Sequence[ClientReport],
        broadcast_bytes: int,
        mean_loss: float | None,
    ) -> RoundStats:
        """Return the record of the round, which ends now.

        `mean_loss`: over examples, where the reports of single clients have none.
        """
        train_s = self._gathered - self._began
        if mean_loss is None and reports:
            # One by one: from Python 3.12 on, `sum` carries the lost digits of floats along.
            losses = ((r.loss or 0.0) * r.num_examples for r in reports)
            total = functools.reduce(operator.add, losses, 0.0)
            mean_loss = total / sum(r.num_examples for r in reports)
        return RoundStats(
            round_idx=plan.round_idx,
            loss=mean_loss,
            up_bytes=sum(r.num_bytes for r in reports),
            down_bytes=broadcast_bytes * len(reports),
            num_steps=sum(r.num_steps for r in reports),
            num_dropped=len(cohort) - len(reports),
            train_s=train_s,
            aggregate_s=time.monotonic() - self._gathered,
            dispatch_s=self._dispatched - self._began,
            idle_fraction=max(0.0, 1 - self._busy_s / self._pool.num_workers / train_s),
        )
