"""Adaptation of a new client: it trains its own parts on a finished backbone.

For SPIRE this is the embedding alone (the paper's personalisation step): the backbone is frozen and
has no gradients. The other methods run the same loop on other parts.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from spire_core.adaptation.descent import Descent
from spire_core.adaptation.set_aside import set_aside
from spire_core.config.adapt import AdaptConfig
from spire_core.diffusion.process import Diffusion
from spire_core.federated.messages import steps_per_epoch
from spire_core.federated.private_state import PrivateState, load_client
from spire_core.methods import CLIENT_EMB, NETWORK_PARTS
from spire_core.network.flat_model import FlatModel
from spire_core.training.batches import Batch, client_batches
from spire_core.training.context import ClientContext
from spire_core.training.fit import TrainingObjective, fit, seeded_dropout, trained_leaves
from spire_core.training.heldout import heldout_losses

PATIENCE = 5  # epochs without a better one, after which early stopping ends a fit


@dataclass(frozen=True)
class AdaptPoint:
    """One epoch of adaptation (0 is before it): losses, and the result of `observe` if called."""

    epoch: int
    train_loss: float | None
    val_loss: float | None
    observed: dict[str, float] | None


Observe = Callable[[int, FlatModel, Tensor | None], dict[str, float]]


@dataclass(frozen=True)
class Adapted:
    """A new client's own parts after adaptation, the curve on the way there, and the kept epoch."""

    state: PrivateState
    curve: tuple[AdaptPoint, ...]
    kept_epoch: int


def num_trained(model: FlatModel, d_emb: int) -> int:
    """Return how many numbers a new client trains with this model's method."""
    parts = model.method.record.adapt_parts
    return sum(d_emb if p == CLIENT_EMB else model.layout.part_size(p) for p in parts)


def _adapted_parts(model: FlatModel, client_emb: Tensor | None) -> PrivateState:
    """Return copies of the parts that this method's new clients own."""
    parts = dict[str, Tensor]()
    for part in model.method.record.adapt_parts:
        if part in NETWORK_PARTS:
            parts[part] = model.weights[model.layout.parts[part]].detach().cpu().clone()
    if client_emb is not None:
        parts[CLIENT_EMB] = client_emb.detach().cpu().clone()
    return PrivateState(parts)


class AdaptationCurve:
    """A new client's losses and observations by epoch, its best parts, and when it stops."""

    def __init__(
        self,
        model: FlatModel,
        client_emb: nn.Parameter | None,
        val: ClientContext | None,
        config: AdaptConfig,
        diffusion: Diffusion,
        observe: Observe,
    ) -> None:
        """Observe the client before adaptation; `val` has the images set aside, if any."""
        self.model, self.client_emb, self.val = model, client_emb, val
        self.config, self.diffusion, self.observe = config, diffusion, observe
        self.best, self.best_epoch = _adapted_parts(model, client_emb), 0
        self.best_loss = self._val_loss()
        self.points = [AdaptPoint(0, None, self.best_loss, observe(0, model, client_emb))]

    def _val_loss(self) -> float | None:
        """Return the loss on the images set aside, at a noise that no other score shares."""
        if self.val is None:
            return None
        settings = (self.val, self.diffusion, "validation_noise")
        return float(heldout_losses(self.model, self.client_emb, *settings).mean())

    def end_epoch(self, epoch: int, train_loss: float) -> bool:
        """Record an epoch; return whether it was the last."""
        val_loss, config = self._val_loss(), self.config
        if val_loss is None or self.best_loss is None or val_loss < self.best_loss:
            self.best, self.best_epoch = _adapted_parts(self.model, self.client_emb), epoch
            self.best_loss = val_loss
        stops = epoch == config.epochs or epoch - self.best_epoch >= PATIENCE
        is_observed = stops or epoch % config.eval_every == 0
        observed = self.observe(epoch, self.model, self.client_emb) if is_observed else None
        self.points.append(AdaptPoint(epoch, train_loss, val_loss, observed))
        return stops

    def result(self) -> Adapted:
        """Return the best parts, the curve, and the epoch of these parts."""
        return Adapted(self.best, tuple(self.points), self.best_epoch)


def adapt_client(
    model: FlatModel,
    weights: Tensor,
    client: ClientContext,
    start: PrivateState,
    config: AdaptConfig,
    objective: TrainingObjective,
    observe: Observe,
) -> Adapted:
    """Fit one new client on its images, from the backbone `weights` (P,) and its own `start`.

    `observe(epoch, model, client_emb)` is called before adaptation, every `eval_every` epochs and
    after the last; it must not change the model.
    """
    record = model.method.record
    emb = load_client(model, weights, start)
    client_emb = None if emb is None else nn.Parameter(emb.clone())
    client, val = set_aside(client, config) if record.adapt_parts else (client, None)
    curve = AdaptationCurve(model, client_emb, val, config, objective.diffusion, observe)
    if not record.adapt_parts:
        return curve.result()
    leaves = trained_leaves(model, client_emb, record.adapt_parts)
    lr = config.lr or record.adapt_lr
    descent = Descent(leaves, lr, config, client)
    for epoch in range(1, config.epochs + 1):
        image_batches, noise = epoch_streams(client, config, epoch)
        with seeded_dropout(model, client.seed, client.client_id, epoch):
            loss = fit(model, client_emb, image_batches, descent, objective, noise)
        with descent.averaged():
            is_last = curve.end_epoch(epoch, loss)
        if is_last:
            break
    return curve.result()


def epoch_streams(
    client: ClientContext, config: AdaptConfig, epoch: int
) -> tuple[Iterator[Batch], torch.Generator]:
    """Return a new client's batches of one epoch, and the stream of its noise.

    A batch has a row for each image and noise draw.
    """
    num_steps = steps_per_epoch(len(client.images), config.batch_size)
    shuffle = client.generator("adapt_batch", epoch)
    noise = client.generator("adapt_noise", epoch)
    once = client_batches(client, config.batch_size, num_steps, shuffle)
    return (batch.repeated(config.draws_of(len(batch.images))) for batch in once), noise
