"""Adaptation of new clients: each trains its own parts on a finished backbone.

For SPIRE this is the embedding alone (the paper's personalisation step): the backbone is frozen and
has no gradients. The other methods run the same loop on other parts. `adapt_client` fits a client,
`adapt_embeddings` the embeddings of several in one batch. P: length of the weight vector.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from spire_core.adaptation.set_aside import split_validation
from spire_core.config.adapt import AdaptConfig
from spire_core.federated.messages import steps_per_epoch
from spire_core.federated.private_state import PrivateState, assigned, load_client
from spire_core.methods import CLIENT_EMB
from spire_core.network.flat_model import FlatModel, train_only
from spire_core.training.adam import Adam
from spire_core.training.batches import Batch, client_batches
from spire_core.training.context import ClientContext
from spire_core.training.fit import (
    StepNoise,
    TrainingObjective,
    fit,
    seeded_dropout,
    to_float,
    trained_leaves,
)
from spire_core.training.heldout import heldout_losses
from spire_core.training.proximal import ProximalTerm
from spire_core.training.several import shown

PATIENCE = 5  # epochs without a better one, after which early stopping ends a fit


@dataclass(frozen=True)
class AdaptPoint:
    """One epoch of adaptation (0 is before it): losses, and the result of `observe` if called."""

    epoch: int
    train_loss: float | None
    val_loss: float | None
    observed: dict[str, float] | None


Observe = Callable[[int, PrivateState], dict[str, float]]
"""Called with an epoch and the client's parts after it, as it would keep them."""


@dataclass(frozen=True)
class Adapted:
    """A new client's own parts after adaptation, the curve on the way there, and the kept epoch."""

    state: PrivateState
    curve: tuple[AdaptPoint, ...]
    kept_epoch: int


def num_trained(model: FlatModel, emb_size: int) -> int:
    """Return how many numbers a new client trains with this model's method."""
    parts = model.method.record.adapt_parts
    return sum(emb_size if p == CLIENT_EMB else model.layout.part_size(p) for p in parts)


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

    `observe` is called before adaptation, every `eval_every` epochs and after the last. It may load
    the model with the parts that it is given, and with no others.
    """
    one = _Fit(model, weights, client, start, config, objective, observe)
    if config.pull > 0:
        pull = ProximalTerm(config.pull, weights)
        objective = replace(objective, terms=(*objective.terms, pull))

    def fit_epoch(_: Sequence[_Fit], epoch: int) -> list[float]:
        image_batches, noise = epoch_streams(one.client, config, epoch)
        with seeded_dropout(model, client.seed, client.client_id, epoch):
            return [fit(model, one.client_emb, image_batches, one.descent, objective, noise)]

    return _fitted([one], config, fit_epoch)[0]


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

    Each row of a batch is shown with its own client's embedding, so each gradient is that of a
    separate fit, up to the rounding of float sums. Each client has its own observer and stops early
    by its own losses; it then leaves the batch. For methods and networks for which
    `can_adapt_together` is true.
    """
    model.net.eval()
    train_only(model.net, model.layout, ())
    fits = [
        _Fit(model, weights, client, start, config, objective, observe)
        for client, start, observe in zip(clients, starts, observers, strict=True)
    ]
    return _fitted(
        fits, config, lambda active, epoch: _fit_epoch(model, active, config, objective, epoch)
    )


def _fitted(
    fits: Sequence["_Fit"],
    config: AdaptConfig,
    fit_epoch: Callable[[Sequence["_Fit"], int], list[float]],
) -> list[Adapted]:
    """Return the results of fits; `fit_epoch` returns the mean loss of each that goes on."""
    active = [one for one in fits if one.descent.leaves]
    for epoch in range(1, config.epochs + 1):
        losses = zip(active, fit_epoch(active, epoch) if active else (), strict=True)
        active = [one for one, loss in losses if not one.end_epoch(epoch, loss)]
    return [one.result() for one in fits]


def _fit_epoch(
    model: FlatModel,
    fits: Sequence["_Fit"],
    config: AdaptConfig,
    objective: TrainingObjective,
    epoch: int,
) -> list[float]:
    """Take every client once through its images, all in one batch; return the mean loss of each.

    Clients with fewer batches finish earlier.
    """
    streams = [epoch_streams(one.client, config, epoch) for one in fits]
    losses = [list[Tensor]() for _ in fits]
    while True:
        step = [
            (i, batch, stream)
            for i, (batches, stream) in enumerate(streams)
            if (batch := next(batches, None)) is not None
        ]
        if not step:
            return [float(torch.stack(own).mean()) for own in losses]
        embs = [fits[i].descent.leaves[CLIENT_EMB] for i, _, _ in step]
        x0s = [to_float(batch.images.to(model.weights.device)) for _, batch, _ in step]
        draws, rows = [], []
        for emb, x0, (_, batch, stream) in zip(embs, x0s, step, strict=True):
            draws.append(objective.draw_noise(x0.shape, emb, stream, batch.tokens))
            rows.append(shown(emb, batch.rows).expand(len(x0), -1))
            emb.grad = None
        noise = StepNoise(*(torch.cat(same) for same in zip(*draws, strict=True)))
        whole = objective.losses(model.net, torch.cat(rows), torch.cat(x0s), noise)
        means = torch.stack([own.mean() for own in whole.split([len(x0) for x0 in x0s])])
        means.sum().backward()
        for (i, _, _), loss in zip(step, means.detach(), strict=True):
            losses[i].append(loss)
            fits[i].descent.step()


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


class _Fit:
    """One new client as it fits: its parts and their steps, its curve, and its best epoch."""

    def __init__(
        self,
        model: FlatModel,
        weights: Tensor,
        client: ClientContext,
        start: PrivateState,
        config: AdaptConfig,
        objective: TrainingObjective,
        observe: Observe,
    ) -> None:
        """Load the client's start into the model, and observe it."""
        record = model.method.record
        client, start = assigned(client, start)
        emb = load_client(model, weights, start)
        self.client_emb = None if emb is None else nn.Parameter(emb.clone())
        self.client, self.val = client, None
        if config.sets_aside and record.adapt_parts:
            train, val = split_validation(client.client_id, len(client.images), client.seed)
            self.client = client.chosen(train)
            self.val = client.chosen(val) if config.early_stopping else None
        self.model, self.config, self.diffusion = model, config, objective.diffusion
        leaves = trained_leaves(model, self.client_emb, record.adapt_parts)
        self.descent = Descent(leaves, config.lr or record.adapt_lr, config, self.client)
        self.observe = observe
        self.best, self.best_epoch, self.best_loss = self._parts(), 0, self._val_loss()
        observed = observe(0, self.best)
        self.curve = [AdaptPoint(0, None, self.best_loss, observed)]

    def end_epoch(self, epoch: int, train_loss: float) -> bool:
        """Record an epoch; return whether it was the last."""
        with self.descent.averaged():
            val_loss, config = self._val_loss(), self.config
            if val_loss is None or self.best_loss is None or val_loss < self.best_loss:
                self.best, self.best_epoch, self.best_loss = self._parts(), epoch, val_loss
            stops = epoch == config.epochs or epoch - self.best_epoch >= PATIENCE
            is_observed = stops or epoch % config.eval_every == 0
            observed = self.observe(epoch, self._parts()) if is_observed else None
        self.curve.append(AdaptPoint(epoch, train_loss, val_loss, observed))
        return stops

    def result(self) -> Adapted:
        """Return the best parts, the curve, and the epoch of these parts."""
        return Adapted(self.best, tuple(self.curve), self.best_epoch)

    def _val_loss(self) -> float | None:
        """Return the loss on the images set aside, at a noise that no other score shares."""
        if self.val is None:
            return None
        losses = heldout_losses(
            self.model, self.client_emb, self.val, self.diffusion, "validation_noise"
        )
        return float(losses.mean())

    def _parts(self) -> PrivateState:
        """Return copies of the parts that this method's new clients own."""
        model, own = self.model, self.model.method.record.adapt_parts
        parts = {p: model.weights[at] for p, at in model.layout.parts.items() if p in own}
        if self.client_emb is not None:
            parts[CLIENT_EMB] = self.client_emb
        return PrivateState({part: value.detach().cpu().clone() for part, value in parts.items()})


class Descent(Adam):
    """Steps the parts of one new client, and averages them over its last steps.

    mean_k = mean_{k-1} + (iterate_k - mean_{k-1}) / k over the steps of the average, k from 1 on.
    """

    def __init__(
        self,
        leaves: Mapping[str, nn.Parameter],
        lr: float,
        config: AdaptConfig,
        client: ClientContext,
    ) -> None:
        """Take the parts that train, and the client with its training images alone."""
        super().__init__(leaves, dict.fromkeys(leaves, lr), {})
        self._num_steps = config.epochs * steps_per_epoch(len(client.images), config.batch_size)
        self._first_averaged = self._num_steps - config.num_averaged(self._num_steps)
        self._config, self._num_taken = config, 0
        self._means: dict[str, Tensor] = {}

    @torch.no_grad()
    def step(self, scale: float = 1.0) -> None:
        """Take one step at the rate that is its turn, and average its iterate if it is a last."""
        super().step(scale * self._config.lr_scale(self._num_taken, self._num_steps))
        self._num_taken += 1
        num_averaged = self._num_taken - self._first_averaged
        if num_averaged < 1:
            return
        for part, leaf in self.leaves.items():
            if part not in self._means:
                self._means[part] = leaf.detach().clone()
            self._means[part].lerp_(leaf, 1 / num_averaged)

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """Put the means into the iterates' place for a while.

        Before the first step that is averaged, the iterates stay.
        """
        iterates = {part: self.leaves[part].detach().clone() for part in self._means}
        self._put(self._means)
        yield
        self._put(iterates)

    @torch.no_grad()
    def _put(self, parts: Mapping[str, Tensor]) -> None:
        for part, value in parts.items():
            self.leaves[part].copy_(value)
