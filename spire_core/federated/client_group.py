"""A round of several clients at once: what `train_client` does for each, as one computation.

Every client keeps its own weights, Adam moments, order of batches and noise: only the arithmetic of
forward and backward passes is shared (`grouped`). The plain loop is the reference.
B: the largest batch of a step; K: clients in that step.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from spire_core.config.client import ClientConfig
from spire_core.diffusion.process import denoising_loss
from spire_core.federated.client import ClientRun, finish_client, phases, start_client
from spire_core.federated.messages import Broadcast, ClientUpdate, RoundPlan
from spire_core.federated.private_state import PrivateState
from spire_core.network.flat_model import train_only
from spire_core.network.grouped_layers import FlatGroup
from spire_core.training.adam import Adam
from spire_core.training.fit import Recipe, draw_noise, to_float, trained_leaves


def train_group(
    group: FlatGroup,
    broadcast: Broadcast,
    states: Sequence[PrivateState],
    images: Sequence[Tensor],
    config: ClientConfig,
    recipe: Recipe,
    plan: RoundPlan,
    seed: int,
    client_ids: Sequence[int],
) -> list[tuple[ClientUpdate, PrivateState]]:
    """Return for each client what `train_client` returns, up to the rounding of float sums."""
    steps = [
        plan.num_steps(client_id, len(own), config.batch_size)
        for client_id, own in zip(client_ids, images, strict=True)
    ]
    longest_first = sorted(range(len(steps)), key=lambda i: -steps[i])
    runs = [
        start_client(model, broadcast, states[i], images[i], config, plan, seed, client_ids[i])
        for model, i in zip(group.clients[: len(steps)], longest_first, strict=True)
    ]
    rates = config.rates(plan.lr_scale)
    for phase in zip(*(phases(run.model, run.num_steps) for run in runs), strict=True):
        parts, counts = phase[0][0], [count for _, count in phase]
        fit_group(group, runs, counts, {part: rates[part] for part in parts}, recipe)
    finished = {run.client_id: finish_client(run, config, plan) for run in runs}
    return [finished[client_id] for client_id in client_ids]


def fit_group(
    group: FlatGroup,
    runs: Sequence[ClientRun],
    counts: Sequence[int],
    rates: Mapping[str, float],
    recipe: Recipe,
) -> None:
    """Train the parts named in `rates`, client k for `counts[k]` steps; counts must not increase.

    Changes the clients' weights, embeddings, moments and losses in place.
    """
    leaves = [trained_leaves(run.model, run.client_emb, rates) for run in runs]
    train_only(group.net, group.layout, rates)
    optimizers = [
        Adam(own, rates, run.moments, recipe.betas) for own, run in zip(leaves, runs, strict=True)
    ]
    totals = torch.zeros(len(runs), device=group.weights.device)
    for step in range(counts[0]):
        num_active = sum(count > step for count in counts)
        totals[:num_active] += group_step(group, runs[:num_active], recipe)
        for optimizer in optimizers[:num_active]:
            optimizer.step()
    for run, optimizer, total in zip(runs, optimizers, totals.tolist(), strict=True):
        run.moments |= optimizer.moments
        run.total_loss += total


def group_step(group: FlatGroup, runs: Sequence[ClientRun], recipe: Recipe) -> Tensor:
    """Return each client's mean denoising loss (K,) on its next batch; their gradients are added.

    Smaller batches are filled up with examples of weight zero.
    """
    device = group.weights.device
    x0s = [to_float(run.images[next(run.order)].to(device)) for run in runs]
    drawn = [
        draw_noise(x0.shape, run.client_emb is not None, recipe, run.noise)
        for x0, run in zip(x0s, runs, strict=True)
    ]
    x0 = pad_sequence(x0s)  # (B, K, C, H, W)
    t, eps, kept = (pad_sequence(list(same)).to(device) for same in zip(*drawn, strict=True))
    weights = pad_sequence([torch.full((len(x),), 1 / len(x), device=device) for x in x0s])
    embs: list[Tensor] = [run.client_emb for run in runs if run.client_emb is not None]
    for emb in embs:
        emb.grad = None
    condition = torch.stack(embs) * kept if embs else None  # (B, K, D_emb)
    losses = denoising_loss(
        recipe.schedule,
        recipe.diffusion.prediction,
        recipe.predict(group.net, condition),
        x0,
        t,
        eps,
    )
    loss = (losses * weights).sum(dim=0)  # (K,)
    group.backward(loss.sum())
    return loss.detach()
