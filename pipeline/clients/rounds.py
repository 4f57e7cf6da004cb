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
from spire_core.federated.private_state import PrivateState, load_client
from spire_core.methods import CLIENT_EMB, NETWORK_PARTS
from spire_core.network.grouped_layers import FlatGroup
from spire_core.training.heldout import losses_by_row
from spire_core.training.several import EVERY, first_assignment, is_table, with_weights


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
            states = [self.assigned(*pair, broadcast) for pair in zip(clients, states, strict=True)]
            finished = self._trained(clients, states, broadcast, plan)
        settings, results = self.context.config.client, []
        for before, (update, after) in zip(states, finished, strict=True):
            arrived, residual = lossy(update, broadcast, before.residual, settings)
            kept = replace(after, residual=residual, assignment=before.assignment)
            results.append((arrived, kept))
        return results

    def assigned(
        self, client: ClientData, state: PrivateState, broadcast: Broadcast
    ) -> PrivateState:
        """Return the state of a client at the start of its round.

        Of a client with several embeddings, all its images belong to one of these: at first by
        clusters or classes, then by their losses, every few rounds in which it takes part.
        """
        context, table = self.context, state.client_emb
        if table is None or not is_table(table):
            return state
        images = context.for_training(client)
        found = state.assignment or first_assignment(images, len(table))
        if found.is_refined and found.num_visits % EVERY == EVERY - 1:
            weights = context.on_device(broadcast.weights)
            model, table = context.model, load_client(context.model, weights, state)
            purpose = f"assign {found.num_visits}"
            found = found.seen(losses_by_row(model, table, images, context.diffusion, purpose))
        found = replace(found, num_visits=found.num_visits + 1)
        parts = {**state.parts, CLIENT_EMB: with_weights(state.parts[CLIENT_EMB], found)}
        return replace(state, parts=parts, assignment=found)

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
        inputs = [
            replace(
                client.for_training(context.config.seed),
                rows=None if state.assignment is None else state.assignment.rows,
            )
            for client, state in zip(clients, states, strict=True)
        ]
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
