"""Adaptation of many new clients at once: with the backbone frozen, embeddings share a batch.

Each row of the batch is shown with its own client's embedding, so each gradient is that of a
separate fit, and the numbers are those of `adapt_client` up to the rounding of float sums. Weights
have no gradients. N: rows of a step, the batches of all clients one after the other.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from spire_core.adaptation.adapt import AdaptationCurve, Adapted, Observe, epoch_streams
from spire_core.adaptation.descent import Descent
from spire_core.adaptation.set_aside import set_aside
from spire_core.config.adapt import AdaptConfig, can_adapt_together
from spire_core.errors import ConfigError
from spire_core.federated.private_state import PrivateState
from spire_core.methods import CLIENT_EMB
from spire_core.network.flat_model import FlatModel, train_only
from spire_core.training.batches import Batch
from spire_core.training.context import ClientContext
from spire_core.training.fit import StepNoise, TrainingObjective, to_float


@dataclass
class _EmbeddingFit:
    """One new client of the batch: its images, its embedding with its own steps, its curve."""

    client: ClientContext
    client_emb: nn.Parameter
    descent: Descent
    curve: AdaptationCurve
    losses: list[Tensor] = field(default_factory=list)  # of the current epoch

    @property
    def mean_loss(self) -> float:
        """Mean over the steps of the current epoch."""
        return float(torch.stack(self.losses).mean())

    def end_epoch(self, epoch: int) -> bool:
        """Record an epoch; return whether it was the last."""
        with self.descent.averaged():
            return self.curve.end_epoch(epoch, self.mean_loss)


def adapt_embeddings(
    model: FlatModel,
    weights: Tensor,
    clients: Sequence[ClientContext],
    starts: Sequence[PrivateState],
    config: AdaptConfig,
    objective: TrainingObjective,
    observers: Sequence[Observe],
) -> list[Adapted]:
    """Return for each new client the result of `adapt_client`, from the backbone `weights` (P,).

    Each client has its own observer and stops early by its own losses; it then leaves the batch.
    Raises ConfigError if the method's new clients train more than an embedding, or if the network
    has dropout, whose single random stream the clients would share.
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
    fits = [
        _start_fit(model, client, start, config, objective, observe)
        for client, start, observe in zip(clients, starts, observers, strict=True)
    ]
    active = fits
    for epoch in range(1, config.epochs + 1):
        _run_epoch(model, active, config, objective, epoch)
        active = [one for one in active if not one.end_epoch(epoch)]
        if not active:
            break
    return [one.curve.result() for one in fits]


def _start_fit(
    model: FlatModel,
    client: ClientContext,
    start: PrivateState,
    config: AdaptConfig,
    objective: TrainingObjective,
    observe: Observe,
) -> _EmbeddingFit:
    client, val = set_aside(client, config)
    emb = nn.Parameter(start.parts[CLIENT_EMB].to(model.weights.device).clone())
    lr = config.lr or model.method.record.adapt_lr
    descent = Descent({CLIENT_EMB: emb}, lr, config, client)
    curve = AdaptationCurve(model, emb, val, config, objective.diffusion, observe)
    return _EmbeddingFit(client, emb, descent, curve)


def _run_epoch(
    model: FlatModel,
    fits: Sequence[_EmbeddingFit],
    config: AdaptConfig,
    objective: TrainingObjective,
    epoch: int,
) -> None:
    """Take every client once through its images; those with fewer batches finish earlier."""
    streams = [epoch_streams(one.client, config, epoch) for one in fits]
    for one in fits:
        one.losses = []
    while True:
        step = [
            (one, batch, noise)
            for one, (batches, noise) in zip(fits, streams, strict=True)
            if (batch := next(batches, None)) is not None
        ]
        if not step:
            return
        _take_step(model, step, objective)


def _take_step(
    model: FlatModel,
    step: Sequence[tuple[_EmbeddingFit, Batch, torch.Generator]],
    objective: TrainingObjective,
) -> None:
    """Take one step of each client's embedding on its own batch."""
    x0s = [to_float(batch.images.to(model.weights.device)) for _, batch, _ in step]
    draws = [
        objective.draw_noise(x0.shape, one.client_emb, noise, batch.tokens)
        for x0, (one, batch, noise) in zip(x0s, step, strict=True)
    ]
    noise = StepNoise(*(torch.cat(same) for same in zip(*draws, strict=True)))
    embs = [one.client_emb.expand(len(x0), -1) for x0, (one, _, _) in zip(x0s, step, strict=True)]
    losses = objective.losses(model.net, torch.cat(embs), torch.cat(x0s), noise)  # (N,)
    means = torch.stack([own.mean() for own in losses.split([len(x0) for x0 in x0s])])
    for one, _, _ in step:
        one.client_emb.grad = None
    means.sum().backward()
    for (one, _, _), loss in zip(step, means.detach(), strict=True):
        one.losses.append(loss)
        one.descent.step()
