"""The clients' part of a pre-training round: they train alone or as a group.

`measure_step` rehearses it: that is the one estimate of what a client's work costs.
"""

import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch.profiler import record_function

from pipeline.clients.client_data import ClientData
from pipeline.clients.context import ModelContext
from pipeline.clients.memory import peak_bytes, resident_bytes
from spire_core.federated.client import train_client
from spire_core.federated.client_group import train_group
from spire_core.federated.compression import lossy
from spire_core.federated.messages import AdamMoments, Broadcast, ClientUpdate, RoundPlan
from spire_core.federated.private_state import PrivateState, load_client
from spire_core.federated.sums import UpdateShape, UpdateSum
from spire_core.methods import CLIENT_EMB, NETWORK_PARTS
from spire_core.network.grouped_layers import FlatGroup
from spire_core.training.fit import to_float
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
        context, settings, results = self.context, self.context.config.client, []
        states = [self.assigned(*pair, broadcast) for pair in zip(clients, states, strict=True)]
        inputs = [
            replace(client.for_training(context.config.seed), rows=state.rows)
            for client, state in zip(clients, states, strict=True)
        ]
        objective, span = context.round_objective(), f"round {plan.round_idx + 1}"
        if plan.private is None:  # of which a profile names nobody
            span += f", clients {', '.join(str(client.client_id) for client in clients)}"
        with record_function(span):
            if len(inputs) > 1:
                finished = train_group(
                    self.group, broadcast, inputs, states, settings, objective, plan
                )
            else:
                [one], [own] = inputs, states
                finished = [
                    train_client(context.model, broadcast, one, own, settings, objective, plan)
                ]
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
        context, table = self.context, state.parts.get(CLIENT_EMB)
        if table is None or not is_table(table):
            return state
        images = context.for_training(client)
        found = state.assignment or first_assignment(images, len(table))
        if found.is_refined and found.num_visits % EVERY == EVERY - 1:
            emb = load_client(context.model, context.on_device(broadcast.weights), state)
            assert emb is not None
            purpose = f"assign {found.num_visits}"
            losses = losses_by_row(context.model, emb, images, context.diffusion, purpose)
            found = found.seen(losses)
        found = replace(found, num_visits=found.num_visits + 1)
        parts = {**state.parts, CLIENT_EMB: with_weights(table, found)}
        return replace(state, parts=parts, assignment=found)


@dataclass(frozen=True)
class StepCosts:
    """Seconds of a processor for an image: of an optimizer step, and of one network evaluation.

    `peak_bytes`: the most memory that the step of a whole group took, on the GPU if it is there.
    """

    train_s: float
    look_s: float
    peak_bytes: int = 0


def measure_step(trainer: ClientTrainer, clients: Sequence[ClientData]) -> StepCosts:
    """Return the costs of these clients' step together, and of one look with their network.

    They are those of a rehearsal, at a learning rate of 0, of which nothing is kept. Each is done
    twice, and the second time counts.
    """
    context, config, before = trainer.context, trainer.context.config, resident_bytes()
    step_s = _second_of_two(lambda: _rehearse(trainer, clients))
    size, device = config.client.batch_size, context.device
    num_trained = sum(len(client.split.train[:size]) for client in clients)
    x = to_float(clients[0].for_training(config.seed).images[:size].to(device))
    t, emb = torch.zeros(len(x), dtype=torch.long, device=device), None
    if config.method.record.has_embedding:
        emb = torch.zeros(len(x), config.model.d_emb, device=device)
    with torch.inference_mode():
        look_s = _second_of_two(lambda: context.model.net(x, t, emb))
    peak = max(0, peak_bytes() - before)
    if device.type == "cuda":
        peak = torch.cuda.max_memory_reserved(device)
    return StepCosts(step_s / num_trained, look_s / len(x), peak)


def _rehearse(trainer: ClientTrainer, clients: Sequence[ClientData]) -> None:
    """Take a step of each phase as in a round, and add the updates up."""
    context, config = trainer.context, trainer.context.config
    weights, moments = context.model.weights.cpu().numpy().copy(), None
    if config.client.opt_state == "average":  # as from the second round on
        steps = np.zeros(len(NETWORK_PARTS), np.float32)
        moments = AdamMoments(np.zeros_like(weights), np.zeros_like(weights), steps)
    states = [context.new_state(client.client_id) for client in clients]
    tau = 2 if config.method.alternates else 1
    plan, broadcast = RoundPlan(0, 0.0, shares_local=True, tau=tau), Broadcast(weights, moments)
    shape = UpdateShape(weights.size, moments is not None, plan.num_examples)
    total = UpdateSum(broadcast, shape)
    for update, _ in trainer.train(clients, states, broadcast, plan):
        total.add(update)


def _second_of_two(call: Callable[[], object]) -> float:
    call()
    began = time.process_time()
    call()
    return time.process_time() - began
