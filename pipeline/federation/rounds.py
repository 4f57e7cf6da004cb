"""The settings that all rounds of a run share, and the record of a single one."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from pipeline.config.schema import Config
from spire_core.config.client import ClientConfig
from spire_core.federated.messages import Broadcast, RoundPlan
from spire_core.federated.private_updates import ClippedFormat
from spire_core.federated.server import ServerState
from spire_core.federated.sums import SecureFormat
from spire_core.methods import MAX_WEIGHT
from spire_core.privacy.guarantee import RoundsGuarantee, rounds_guarantee


@dataclass(frozen=True)
class RoundSettings:
    """The constants of a run's rounds.

    `num_examples` of each client by its id; `shared_size`: length of the stretch of weights that is
    shared in every round; `guarantee`: the driver's promise to the clients, if it gives one.
    """

    config: Config
    num_examples: Sequence[int]
    shared_size: int
    guarantee: RoundsGuarantee | None = None

    @cached_property
    def client(self) -> ClientConfig:
        """The settings of clients, with an engine that is never "auto"."""
        return self.config.resolved_client

    def plan(
        self, state: ServerState, kept_rounds: tuple[int, ...], client_ids: Sequence[int]
    ) -> RoundPlan:
        """Return the plan of the round after a state for the clients that respond."""
        federation, round_idx = self.config.federation, state.round_idx
        num_shared = self.config.method.num_shared_rounds(federation.num_rounds)
        num_examples = sum(self.num_examples[client_id] for client_id in client_ids)
        if self.config.method.record.weight is not None:
            num_examples = len(client_ids) * MAX_WEIGHT
        private = self.guarantee and self.guarantee.round(clip_norm_of(self.guarantee, state))
        return RoundPlan(
            round_idx=round_idx,
            lr_scale=self.client.lr_scale(round_idx, federation.num_rounds),
            shares_local=round_idx < num_shared,
            num_examples=num_examples,
            tau=federation.tau,
            local_epochs=federation.local_epochs,
            kept_rounds=kept_rounds,
            is_secure=federation.secure_aggregation,
            private=private,
        )

    def update_format(self, plan: RoundPlan, broadcast: Broadcast) -> SecureFormat | ClippedFormat:
        """Return how a round's hidden updates become integers."""
        size = broadcast.weights.size if plan.shares_local else self.shared_size
        if plan.private is not None:
            return ClippedFormat(broadcast, size, plan.private)
        has_moments = self.client.opt_state == "average"
        return SecureFormat(broadcast, size, has_moments, plan.num_examples)

    def cost(self, plan: RoundPlan, client_ids: Sequence[int]) -> float:
        """Return the optimizer steps of these clients in a round, all together."""
        batch_size = self.client.batch_size
        return float(sum(plan.num_steps(self.num_examples[c], batch_size) for c in client_ids))


def promise_to_clients(config: Config) -> RoundsGuarantee | None:
    """Return what the rounds promise to the clients, None without a budget.

    Raises ConfigError if the budget cannot be kept.
    """
    federation, privacy = config.federation, config.privacy
    return rounds_guarantee(
        privacy.rounds,
        federation.num_clients,
        federation.cohort_size,
        federation.num_rounds,
        privacy.noise_key is not None,
    )


def clip_norm_of(guarantee: RoundsGuarantee, state: ServerState) -> float:
    """Return the clip norm of the private round after a state."""
    return guarantee.clip_norm if state.clip_norm is None else float(state.clip_norm[0])


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
