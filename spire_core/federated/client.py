"""One client's round: from the broadcast and its private state to its update and new state.

Everything here is a function of its arguments. A `PrivateState` holds the private numbers: the
embedding, local layers and their Adam moments. A `ClientUpdate` holds the numbers that are sent
back.

P: length of the flat weight vector; S <= P: length of its shared stretch.
"""

import itertools
import math
import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from spire_core.config.checks import require
from spire_core.config.client import PRIVATE_MOMENTS, ClientConfig
from spire_core.federated.messages import AdamMoments, Broadcast, ClientUpdate, RoundPlan
from spire_core.federated.private_state import PrivateState, load_client
from spire_core.methods import (
    BODY,
    CLIENT_EMB,
    EMB_PROJ,
    LOCAL,
    MAX_WEIGHT,
    MODULATION,
    NETWORK_PARTS,
)
from spire_core.network.flat_model import FlatModel, FlatWeights, Layout
from spire_core.training.adam import Adam, PartMoments
from spire_core.training.batches import Batch, client_batches
from spire_core.training.context import ClientContext
from spire_core.training.fit import TrainingObjective, fit, seeded_dropout, trained_leaves
from spire_core.training.penalty import Penalty
from spire_core.training.proximal import ProximalTerm


def _shared_moments(
    model: FlatWeights, broadcast: Broadcast, config: ClientConfig
) -> dict[str, PartMoments]:
    """Return the moments that the server has averaged, but for parts that were never shared."""
    averaged, device = broadcast.moments, model.weights.device
    if averaged is None:
        return {}
    return {
        part: PartMoments(
            torch.tensor(averaged.exp_avg[at], device=device),
            torch.tensor(averaged.exp_avg_sq[at], device=device),
            torch.tensor(averaged.steps[i]),
        )
        for i, (part, at) in enumerate(model.layout.parts.items())
        if at.stop <= averaged.exp_avg.size and part not in PRIVATE_MOMENTS[config.private_moments]
    }


def phases(model: FlatWeights, num_steps: int) -> list[tuple[tuple[str, ...], int]]:
    """Return the phases of a round in order: the parts that train, and for how many steps.

    `num_steps`: of all phases together.
    """
    shared = (BODY, MODULATION, EMB_PROJ, CLIENT_EMB)
    if model.method.alternates:
        of_local = (num_steps + 1) // 2
        return [((LOCAL,), of_local), (shared, num_steps - of_local)]
    return [((*shared, LOCAL), num_steps)]


def objective_of_round(
    objective: TrainingObjective,
    model: FlatWeights,
    broadcast: Broadcast,
    config: ClientConfig,
    plan: RoundPlan,
) -> TrainingObjective:
    """Return the objective with the proximal term of `config.prox_mu` and the method's penalty."""
    penalty, terms = model.method.record.penalty, list[ProximalTerm | Penalty]()
    if config.prox_mu == 0.0 and penalty is None:
        return objective
    shared = broadcast.weights[_shared(model.layout, plan)]
    anchor = torch.tensor(shared, device=model.weights.device)
    if config.prox_mu != 0.0:
        terms.append(ProximalTerm(config.prox_mu, anchor))
    if penalty is not None:
        terms.append(Penalty(penalty, anchor))
    return replace(objective, terms=tuple(terms))


def train_client(
    model: FlatModel,
    broadcast: Broadcast,
    client: ClientContext,
    state: PrivateState,
    config: ClientConfig,
    objective: TrainingObjective,
    plan: RoundPlan,
) -> tuple[ClientUpdate, PrivateState]:
    """Take a client's local steps of a round; return its update and its new private state."""
    run = start_client(model, broadcast, client, state, config, plan)
    rates = config.rates(plan.lr_scale)
    objective = objective_of_round(objective, model, broadcast, config, plan)
    with seeded_dropout(model, client.seed, client.client_id, plan.round_idx):
        for parts, count in phases(model, run.num_steps):
            leaves = trained_leaves(model, run.client_emb, parts)
            optimizer = Adam(leaves, rates, run.moments)
            batches = itertools.islice(run.batches, count)
            loss = fit(model, run.client_emb, batches, optimizer, objective, run.noise)
            run.moments |= optimizer.moments
            run.total_loss += loss * count
    return finish_client(run, config, plan)


@dataclass
class ClientRun:
    """A client in the middle of its round: the tensors that it trains, and its random streams."""

    client: ClientContext
    model: FlatWeights
    client_emb: nn.Parameter | None
    moments: dict[str, PartMoments]
    num_steps: int
    batches: Iterator[Batch]
    noise: torch.Generator
    averaged: AdamMoments | None  # the moments that the server handed out
    total_loss: float = 0.0


def start_client(
    model: FlatWeights,
    broadcast: Broadcast,
    client: ClientContext,
    state: PrivateState,
    config: ClientConfig,
    plan: RoundPlan,
) -> ClientRun:
    """Load a client's weights into the model; return its embedding, Adam moments and streams."""
    device = model.weights.device
    emb = load_client(model, torch.tensor(broadcast.weights, device=device), state)
    client_emb = None if emb is None else nn.Parameter(emb.clone())
    moments = _shared_moments(model, broadcast, config)
    moments |= {part: kept.to(device) for part, kept in state.moments.items()}
    num_steps = plan.num_steps(len(client.images), config.batch_size)
    order = client.generator("batch", plan.round_idx)
    batches = client_batches(client, config.batch_size, num_steps, order)
    return ClientRun(
        client,
        model,
        client_emb,
        moments,
        num_steps,
        batches,
        client.generator("noise", plan.round_idx),
        broadcast.moments,
    )


def finish_client(
    run: ClientRun, config: ClientConfig, plan: RoundPlan
) -> tuple[ClientUpdate, PrivateState]:
    """Return the update and the new private state of a client that has taken all its steps."""
    model, shared, parts = run.model, _shared(run.model.layout, plan), dict[str, Tensor]()
    update = ClientUpdate(
        client_id=run.client.client_id,
        num_examples=len(run.client.images),
        num_steps=run.num_steps,
        loss=run.total_loss / max(1, run.num_steps),
        weights=model.weights[shared].cpu().numpy().copy(),
        moments=_sent_moments(run, config, plan) if config.opt_state == "average" else None,
    )
    if run.client_emb is not None:
        parts[CLIENT_EMB] = run.client_emb.detach().cpu()
    if model.method.record.has_local_layers and not plan.shares_local:
        parts[LOCAL] = model.weights[model.layout.parts[LOCAL]].clone().cpu()
    moments = {part: m.to("cpu") for part, m in run.moments.items() if part in parts}
    return update, PrivateState(parts, moments)


def weighted(
    update: ClientUpdate,
    broadcast: Broadcast,
    weight: Callable[[ClientUpdate, Broadcast], int] | None,
) -> ClientUpdate:
    """Return a finite update with the weight that a method's own function gives it, if any."""
    if weight is None or not math.isfinite(update.loss):
        return update
    found, expected = weight(update, broadcast), f"a client's weight in 1..{MAX_WEIGHT}"
    is_met = hasattr(found, "__index__") and 1 <= found <= MAX_WEIGHT
    require(is_met, f"{expected}, a whole number", found, "change the method's function")
    return replace(update, num_examples=operator.index(found))


def _shared(layout: Layout, plan: RoundPlan) -> slice:
    """Return the stretch of the flat vector that the clients of a round share."""
    return slice(0, layout.size if plan.shares_local else layout.num_without_local)


def _sent_moments(run: ClientRun, config: ClientConfig, plan: RoundPlan) -> AdamMoments:
    """Return the moments of the shared stretch; the step count of a private part is not sent.

    Private moments are sent as zeros, so that a message keeps its form.
    """
    leaves, shared = run.model.leaves, _shared(run.model.layout, plan)
    private = PRIVATE_MOMENTS[config.private_moments]
    sent = {part: moments for part, moments in run.moments.items() if part not in private}
    full = [sent.get(p) or PartMoments.fresh(leaves[p].detach()) for p in NETWORK_PARTS]
    steps = np.array([float(m.step) for m in full], dtype=np.float32)
    if not plan.shares_local:
        at = NETWORK_PARTS.index(LOCAL)
        steps[at] = 0.0 if run.averaged is None else run.averaged.steps[at]
    return AdamMoments(
        torch.cat([m.exp_avg for m in full])[shared].cpu().numpy(),
        torch.cat([m.exp_avg_sq for m in full])[shared].cpu().numpy(),
        steps,
    )
