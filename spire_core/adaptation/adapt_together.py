"""Many new clients at once: with the backbone frozen, all their embeddings are fitted in one batch.

Row i of the batch is shown with its own client's embedding, so each gradient is that of a separate
fit: the numbers are those of `adapt_client` up to the rounding of float sums. No gradient of the
weights is computed. N: rows of a step, all clients' batches one below the other.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from spire_core.adaptation.adapt import Adapted, Course, Observe, epoch_streams, split_validation
from spire_core.config.adapt import AdaptConfig, can_adapt_together
from spire_core.diffusion.process import denoising_loss
from spire_core.errors import ConfigError
from spire_core.federated.private_state import PrivateState
from spire_core.methods import CLIENT_EMB
from spire_core.network.flat_model import FlatModel, train_only
from spire_core.training.adam import Adam
from spire_core.training.fit import Recipe, draw_noise, to_float


@dataclass
class _NewClient:
    """One new client of the batch: its embedding with its own Adam, its images and its course."""

    client_id: int
    client_emb: nn.Parameter
    optimizer: Adam
    images: Tensor
    course: Course
    losses: list[Tensor] = field(default_factory=list)  # of the running epoch


def adapt_embeddings(
    model: FlatModel,
    weights: Tensor,
    starts: Sequence[PrivateState],
    images: Sequence[Tensor],
    config: AdaptConfig,
    recipe: Recipe,
    seed: int,
    client_ids: Sequence[int],
    observers: Sequence[Observe],
) -> list[Adapted]:
    """Return for each new client what `adapt_client` returns, from the backbone `weights` (P,).

    Early stopping and observers are each client's own; who has stopped leaves the batch. Raises
    ConfigError if the method's new clients train more than an embedding, or the network has
    dropout, whose one stream they would share.
    """
    record = model.method.record
    if not can_adapt_together(record, model.net.config):
        raise ConfigError(
            f"expected a method whose new clients train an embedding alone and a U-Net without "
            f"dropout, got {record.name} and {model.net.config.dropout}: adapt them one by one"
        )
    model.load(weights)
    model.net.eval()
    train_only(model.net, model.layout, ())
    clients = []
    for client_id, start, own, observe in zip(client_ids, starts, images, observers, strict=True):
        val = None
        if config.early_stopping:
            own, val = split_validation(own, config.val_fraction, seed, client_id)
        emb = nn.Parameter(start.parts[CLIENT_EMB].to(weights.device).clone())
        rates = {CLIENT_EMB: config.lr or record.adapt_lr}
        optimizer = Adam({CLIENT_EMB: emb}, rates, {}, recipe.betas)
        course = Course(model, emb, val, config, recipe, seed, client_id, observe)
        clients.append(_NewClient(client_id, emb, optimizer, own, course))
    active = clients
    for epoch in range(1, config.epochs + 1):
        _epoch(model, active, config, recipe, seed, epoch)
        active = [c for c in active if not c.course.epoch_done(epoch, _mean_loss(c))]
        if not active:
            break
    return [client.course.result() for client in clients]


def _mean_loss(client: _NewClient) -> float:
    return float(torch.stack(client.losses).mean())


def _epoch(
    model: FlatModel,
    clients: Sequence[_NewClient],
    config: AdaptConfig,
    recipe: Recipe,
    seed: int,
    epoch: int,
) -> None:
    """Take every client once through its images; those with fewer batches finish earlier."""
    orders, noises = zip(
        *(
            epoch_streams(len(c.images), config.batch_size, seed, c.client_id, epoch)
            for c in clients
        ),
        strict=True,
    )
    for client in clients:
        client.losses = []
    while True:
        indices = [next(order, None) for order in orders]
        step = [
            (client, index, noise)
            for client, index, noise in zip(clients, indices, noises, strict=True)
            if index is not None
        ]
        if not step:
            return
        _step(model, step, recipe)


def _step(
    model: FlatModel,
    step: Sequence[tuple[_NewClient, Tensor, torch.Generator]],
    recipe: Recipe,
) -> None:
    """Take one step of each client's embedding on its own batch, given by indices of its images."""
    device = model.weights.device
    x0s = [to_float(client.images[index].to(device)) for client, index, _ in step]
    drawn = [
        draw_noise(x0.shape, True, recipe, noise)
        for x0, (_, _, noise) in zip(x0s, step, strict=True)
    ]
    t, eps, _ = (torch.cat(same).to(device) for same in zip(*drawn, strict=True))
    rows = [
        c.client_emb * kept.to(device) for (c, _, _), (_, _, kept) in zip(step, drawn, strict=True)
    ]
    condition = torch.cat(rows)  # (N, D_emb)
    losses = denoising_loss(
        recipe.schedule,
        recipe.diffusion.prediction,
        recipe.predict(model.net, condition),
        torch.cat(x0s),
        t,
        eps,
    )
    means = torch.stack([own.mean() for own in losses.split([len(x0) for x0 in x0s])])
    for client, _, _ in step:
        client.client_emb.grad = None
    means.sum().backward()
    for (client, _, _), loss in zip(step, means.detach(), strict=True):
        client.losses.append(loss)
        client.optimizer.step()
