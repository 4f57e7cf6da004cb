"""The clients' part of a pre-training round: they train alone or as a group."""

import functools
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from torch.profiler import record_function

from pipeline.clients.client_data import ClientData
from pipeline.clients.context import ModelContext
from spire_core.federated.client import train_client
from spire_core.federated.client_group import train_group
from spire_core.federated.compression import lossy
from spire_core.federated.messages import (
    AdamMoments,
    Broadcast,
    ClientUpdate,
    RoundPlan,
)
from spire_core.federated.private_state import PrivateState
from spire_core.methods import NETWORK_PARTS
from spire_core.network.grouped_layers import FlatGroup


class ClientTrainer:
    """Trains clients for a round. It keeps no client: private states come and go as arguments."""

    def __init__(self, context: ModelContext) -> None:
        self.context = context

    @functools.cached_property
    def group(self) -> FlatGroup:
        """The networks of the clients that are computed together, made on first use."""
        context, config = self.context, self.context.config
        return FlatGroup(
            config.model,
            config.method,
            context.image_shape[0],
            config.client.largest_group(config.federation.cohort_size),
            context.device,
        )

    def train(
        self,
        clients: Sequence[ClientData],
        states: Sequence[PrivateState],
        broadcast: Broadcast,
        plan: RoundPlan,
    ) -> list[tuple[ClientUpdate, PrivateState]]:
        """Train clients together; return each one's update, as it arrives, and new state."""
        with record_function(_span(plan, clients)):
            finished = self._trained(clients, states, broadcast, plan)
        settings, results = self.context.config.client, []
        for before, (update, after) in zip(states, finished, strict=True):
            arrived, residual = lossy(update, broadcast, before.residual, settings)
            results.append((arrived, replace(after, residual=residual)))
        return results

    def rehearse(self, clients: Sequence[ClientData]) -> None:
        """Take a step of each phase as in a round without keeping it, to measure memory or time."""
        model, config = self.context.model, self.context.config
        weights = model.weights.cpu().numpy().copy()
        moments = None
        if config.client.opt_state == "average":  # as from the second round on
            steps = np.zeros(len(NETWORK_PARTS), np.float32)
            moments = AdamMoments(np.zeros_like(weights), np.zeros_like(weights), steps)
        states = [self.context.new_state(client.client_id) for client in clients]
        tau = 2 if config.method.alternates else 1
        plan = RoundPlan(0, lr_scale=0.0, shares_local=True, tau=tau)
        self._trained(clients, states, Broadcast(weights, moments), plan)

    def _trained(
        self,
        clients: Sequence[ClientData],
        states: Sequence[PrivateState],
        broadcast: Broadcast,
        plan: RoundPlan,
    ) -> list[tuple[ClientUpdate, PrivateState]]:
        context, config = self.context, self.context.config.client
        inputs = [client.for_training(context.config.seed) for client in clients]
        objective = context.round_objective()
        if len(inputs) > 1:
            return train_group(self.group, broadcast, inputs, states, config, objective, plan)
        [one], [state] = inputs, states
        return [train_client(context.model, broadcast, one, state, config, objective, plan)]


def _span(plan: RoundPlan, clients: Sequence[ClientData]) -> str:
    """Return the name of a group's span in a profile; nobody is named in a private round."""
    name = f"round {plan.round_idx + 1}"
    if plan.private is not None:
        return name
    return f"{name}, clients {', '.join(str(client.client_id) for client in clients)}"
