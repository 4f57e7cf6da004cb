"""A round of several clients at once: the computation of `train_client` for each, in one network.

Every client keeps its own weights, Adam moments, order of batches and noise. Only the arithmetic of
forward and backward passes is shared (`grouped_layers`). The plain loop is the reference.
B: the largest batch of a step; K: clients in that step.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from spire_core.config.client import ClientConfig
from spire_core.federated.client import (
    ClientRun,
    finish_client,
    objective_of_round,
    phases,
    start_client,
)
from spire_core.federated.messages import Broadcast, ClientUpdate, RoundPlan
from spire_core.federated.private_state import PrivateState
from spire_core.network.flat_model import train_only
from spire_core.network.grouped_layers import FlatGroup
from spire_core.training.adam import Adam
from spire_core.training.context import ClientContext
from spire_core.training.fit import StepNoise, TrainingObjective, to_float, trained_leaves
from spire_core.training.several import shown


def train_group(
    group: FlatGroup,
    broadcast: Broadcast,
    clients: Sequence[ClientContext],
    states: Sequence[PrivateState],
    config: ClientConfig,
    objective: TrainingObjective,
    plan: RoundPlan,
) -> list[tuple[ClientUpdate, PrivateState]]:
    """Return for each client the result of `train_client`, up to the rounding of float sums."""
    steps = [plan.num_steps(len(client.images), config.batch_size) for client in clients]
    longest_first = sorted(range(len(steps)), key=lambda i: -steps[i])
    runs = [
        start_client(model, broadcast, clients[i], states[i], config, plan)
        for model, i in zip(group.clients[: len(steps)], longest_first, strict=True)
    ]
    rates = config.rates(plan.lr_scale)
    objective = objective_of_round(objective, group.clients[0], broadcast, config, plan)
    for phase in zip(*(phases(run.model, run.num_steps) for run in runs), strict=True):
        parts, counts = phase[0][0], [count for _, count in phase]
        fit_group(group, runs, counts, {part: rates[part] for part in parts}, objective)
    finished = {run.client.client_id: finish_client(run, config, plan) for run in runs}
    return [finished[client.client_id] for client in clients]


def fit_group(
    group: FlatGroup,
    runs: Sequence[ClientRun],
    counts: Sequence[int],
    rates: Mapping[str, float],
    objective: TrainingObjective,
) -> None:
    """Train the parts named in `rates`, client k for `counts[k]` steps; counts must not increase.

    Changes the clients' weights, embeddings, moments and losses in place.
    """
    leaves = [trained_leaves(run.model, run.client_emb, rates) for run in runs]
    train_only(group.net, group.layout, rates)
    objective = objective.of_parts(rates)
    optimizers = [Adam(own, rates, run.moments) for own, run in zip(leaves, runs, strict=True)]
    totals = torch.zeros(len(runs), device=group.weights.device)
    for step in range(counts[0]):
        num_active = sum(count > step for count in counts)
        totals[:num_active] += group_step(group, runs[:num_active], objective)
        for term in objective.terms:
            active = group.weights[:num_active], group.grads[:num_active]
            term.add_gradient(*active, group.layout, rates)
        for optimizer in optimizers[:num_active]:
            optimizer.step()
    for run, optimizer, total in zip(runs, optimizers, totals.tolist(), strict=True):
        run.moments |= optimizer.moments
        run.total_loss += total


def group_step(group: FlatGroup, runs: Sequence[ClientRun], objective: TrainingObjective) -> Tensor:
    """Return each client's mean denoising loss (K,) on its next batch; its gradients are set.

    Smaller batches are padded with examples of weight zero.
    """
    device = group.weights.device
    batches = [next(run.batches) for run in runs]
    x0s = [to_float(batch.images.to(device)) for batch in batches]
    draws = [
        objective.draw_noise(x0.shape, run.client_emb, run.noise, batch.tokens)
        for x0, run, batch in zip(x0s, runs, batches, strict=True)
    ]
    noise = StepNoise(*(pad_sequence(list(same)) for same in zip(*draws, strict=True)))
    weights = pad_sequence([torch.full((len(x),), 1 / len(x), device=device) for x in x0s])
    embs = [(run.client_emb, batch.rows) for run, batch in zip(runs, batches, strict=True)]
    stacked = _stacked([(emb, rows) for emb, rows in embs if emb is not None])
    x0 = pad_sequence(x0s)  # (B, K, C, H, W)
    losses = objective.losses(group.net, stacked, x0, noise)  # (B, K)
    loss = (losses * weights).sum(dim=0)  # (K,)
    group.backward(loss.sum())
    return loss.detach()


def _stacked(embs: Sequence[tuple[Tensor, Tensor | None]]) -> Tensor | None:
    """Return the clients' embeddings (K, D_emb), or those of each image (B, K, D_emb)."""
    for emb, _ in embs:
        emb.grad = None
    if not embs:
        return None
    own = [shown(emb, rows) for emb, rows in embs]
    return torch.stack(own) if own[0].ndim == 1 else pad_sequence(own)
