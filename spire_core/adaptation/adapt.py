"""A new client arrives: it fits on a finished backbone the part that its method gives it, no more.

For SPIRE that is the embedding alone (the paper's personalisation step): the backbone is frozen and
not even differentiated. The other methods run the same loop on other parts.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from spire_core.config.adapt import AdaptConfig
from spire_core.errors import DataError
from spire_core.federated.messages import steps_per_epoch
from spire_core.federated.private_state import PrivateState, load_client
from spire_core.methods import CLIENT_EMB, NETWORK_PARTS
from spire_core.network.flat_model import FlatModel
from spire_core.rng import torch_generator
from spire_core.training.adam import PartMoments
from spire_core.training.fit import Recipe, batches, fit, seeded_dropout
from spire_core.training.heldout import heldout_loss


@dataclass(frozen=True)
class AdaptPoint:
    """One epoch of adaptation (0 = before it): losses, and what `observe` returned if it looked."""

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


def split_validation(
    images: Tensor, fraction: float, seed: int, client_id: int
) -> tuple[Tensor, Tensor]:
    """Return (training, validation) images of a new client, at least one of each.

    Raises DataError below two.
    """
    if len(images) < 2:
        raise DataError(
            f"expected at least 2 images of client {client_id} for early stopping, got "
            f"{len(images)}: set adapt.early_stopping=false"
        )
    order = torch.randperm(len(images), generator=torch_generator(seed, "validation", client_id))
    num_val = min(len(images) - 1, max(1, round(fraction * len(images))))
    return images[order[num_val:]], images[order[:num_val]]


def _own_parts(model: FlatModel, client_emb: Tensor | None) -> PrivateState:
    """Return copies of the parts that this method's new clients own."""
    parts = dict[str, Tensor]()
    for part in model.method.record.adapt_parts:
        if part in NETWORK_PARTS:
            parts[part] = model.weights[model.layout.parts[part]].detach().cpu().clone()
    if client_emb is not None:
        parts[CLIENT_EMB] = client_emb.detach().cpu().clone()
    return PrivateState(parts)


class Course:
    """How one new client's adaptation goes: its curve, its best own parts, and when it stops."""

    def __init__(
        self,
        model: FlatModel,
        client_emb: nn.Parameter | None,
        val: Tensor | None,
        config: AdaptConfig,
        recipe: Recipe,
        seed: int,
        client_id: int,
        observe: Observe,
    ) -> None:
        """Observe the client before adaptation; `val` are images (N, C, H, W) set aside, if any."""
        self.model, self.client_emb, self.val = model, client_emb, val
        self.config, self.recipe, self.seed, self.client_id = config, recipe, seed, client_id
        self.observe, self.best_loss = observe, self._val_loss()
        self.best, self.best_epoch = _own_parts(model, client_emb), 0
        self.curve = [AdaptPoint(0, None, self.best_loss, observe(0, model, client_emb))]

    def _val_loss(self) -> float | None:
        """Return the loss on the images set aside, at a noise that no other score sees."""
        if self.val is None:
            return None
        more = (self.recipe, self.seed, self.client_id, "validation_noise")
        return heldout_loss(self.model, self.client_emb, self.val, *more)

    def epoch_done(self, epoch: int, train_loss: float) -> bool:
        """Take note of an epoch; return whether it was the last."""
        val_loss = self._val_loss()
        if val_loss is None or self.best_loss is None or val_loss < self.best_loss:
            self.best, self.best_epoch = _own_parts(self.model, self.client_emb), epoch
            self.best_loss = val_loss
        config = self.config
        stops = epoch == config.epochs or epoch - self.best_epoch >= config.patience
        looks = stops or epoch % config.eval_every == 0
        observed = self.observe(epoch, self.model, self.client_emb) if looks else None
        self.curve.append(AdaptPoint(epoch, train_loss, val_loss, observed))
        return stops

    def result(self) -> Adapted:
        return Adapted(self.best, tuple(self.curve), self.best_epoch)


def adapt_client(
    model: FlatModel,
    weights: Tensor,
    start: PrivateState,
    images: Tensor,
    config: AdaptConfig,
    recipe: Recipe,
    seed: int,
    client_id: int,
    observe: Observe,
) -> Adapted:
    """Fit one new client on its uint8 images (N, C, H, W), from the backbone `weights` (P,).

    `start` is the private state that it begins with. `observe(epoch, model, client_emb)` is called
    before adaptation, every `eval_every` epochs and after the last; it must leave the model as it
    found it.
    """
    record = model.method.record
    emb = load_client(model, weights, start)
    client_emb = None if emb is None else nn.Parameter(emb.clone())
    val = None
    if config.early_stopping:
        images, val = split_validation(images, config.val_fraction, seed, client_id)
    course = Course(model, client_emb, val, config, recipe, seed, client_id, observe)
    moments: dict[str, PartMoments] = {}
    rates = dict.fromkeys(record.adapt_parts, config.lr or record.adapt_lr)
    for epoch in range(1, config.epochs + 1) if rates else ():
        order, noise = epoch_streams(len(images), config.batch_size, seed, client_id, epoch)
        with seeded_dropout(model, seed, client_id, epoch):
            loss, moments = fit(model, client_emb, images, order, rates, moments, recipe, noise)
        if course.epoch_done(epoch, loss):
            break
    return course.result()


def epoch_streams(
    num_images: int, batch_size: int, seed: int, client_id: int, epoch: int
) -> tuple[Iterator[Tensor], torch.Generator]:
    """Return a new client's index batches of one epoch, and the stream of its noise."""
    num_steps = steps_per_epoch(num_images, batch_size)
    shuffle = torch_generator(seed, "adapt_batch", client_id, epoch)
    noise = torch_generator(seed, "adapt_noise", client_id, epoch)
    return batches(num_images, batch_size, num_steps, shuffle), noise
