"""Local training: gradient steps of one client on chosen parts of the network and on its embedding.

Pre-training rounds and the adaptation of new clients both call `fit`, with different parts and
optimizers. B: batch size; D_emb: numbers of an embedding; L: words of a caption.
"""

import contextlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from spire_core.config.checks import require
from spire_core.diffusion.process import Diffusion, sample_timesteps
from spire_core.methods import CLIENT_EMB, LOCAL
from spire_core.network.flat_model import FlatModel, FlatWeights, train_only
from spire_core.rng import derive_seed
from spire_core.training.batches import Batch
from spire_core.training.penalty import Penalty
from spire_core.training.proximal import ProximalTerm
from spire_core.training.several import shown


class Optimizer(Protocol):
    """The steps of a training loop: `Adam`'s, or those of an object that has an `Adam`."""

    @property
    def leaves(self) -> Mapping[str, nn.Parameter]:
        """The parts that train, by name."""
        ...

    def zero_grad(self) -> None:
        """Set the gradients of all parts to zero."""
        ...

    def step(self) -> None:
        """Take one step along the gradients."""
        ...


class StepNoise(NamedTuple):
    """The random draws of one training step, and the captions that it shows.

    `kept` tells which examples are shown with the client's embedding (embedding dropout). In
    `tokens` dropped captions have no word.
    """

    t: Tensor  # (B,)
    eps: Tensor  # (B, C, H, W)
    kept: Tensor  # (B, 1), bool
    tokens: Tensor  # (B, L), int64; L is 0 without text


class ShownBatch(NamedTuple):
    """What a method's own loss sees of a step; `output` is the network's, for xt at t."""

    x0: Tensor  # (B, C, H, W)
    xt: Tensor  # (B, C, H, W)
    t: Tensor  # (B,)
    tokens: Tensor  # (B, L)
    output: Tensor  # (B, C, H, W)


@dataclass(frozen=True)
class TrainingObjective:
    """The denoising objective, a method's own loss, and the terms that a round adds.

    `below`: the first timestep that steps do not draw, None for all. Of a client with a network of
    its own it is that of the steps that train this network alone.
    """

    diffusion: Diffusion
    emb_dropout: float = 0.0
    precision: str = "float32"
    text_dropout: float = 0.0
    micro_batch: int | None = None
    terms: tuple[ProximalTerm | Penalty, ...] = ()
    own_loss: Callable[..., Tensor] | None = None
    below: int | None = None

    @property
    def num_timesteps(self) -> int:
        """The timesteps that steps are drawn from, counted from 0."""
        return self.below or self.diffusion.config.num_timesteps

    def of_parts(self, parts: Collection[str]) -> "TrainingObjective":
        """Return the objective of steps that train these parts."""
        return self if set(parts) == {LOCAL} else replace(self, below=None)

    def draw_noise(
        self,
        shape: torch.Size,
        client_emb: Tensor | None,
        generator: torch.Generator,
        tokens: Tensor | None = None,
    ) -> StepNoise:
        """Return the draws of a step for a batch of this shape (B, C, H, W), on the CPU.

        `client_emb` (D_emb,) is the client's embedding, `tokens` (B, L) are the batch's captions.
        """
        power = self.diffusion.config.t_power
        t = sample_timesteps(shape[0], self.num_timesteps, power, generator)
        eps = torch.randn(shape, generator=generator)
        kept = torch.ones(shape[0], 1, dtype=torch.bool)
        if client_emb is not None and self.emb_dropout > 0:
            kept = torch.rand(shape[0], 1, generator=generator) >= self.emb_dropout
        if tokens is None:
            tokens = torch.zeros(shape[0], 0, dtype=torch.int64)
        elif self.text_dropout > 0:
            tokens = tokens * (torch.rand(shape[0], 1, generator=generator) >= self.text_dropout)
        return StepNoise(t, eps, kept, tokens)

    def losses(
        self, net: Callable[..., Tensor], embs: Tensor | None, x0: Tensor, noise: StepNoise
    ) -> Tensor:
        """Return the loss (B,) of each image of a batch x0 (B, C, H, W).

        `embs` (D_emb,) or (B, D_emb) are the embeddings that the network is shown. All arguments
        and the result may have a dimension K of clients after B, but for a method's own loss.
        ConfigError if that is not one number for each image.
        """
        t, eps, kept, tokens = (draws.to(x0.device) for draws in noise)
        condition = None if embs is None else embs * kept  # (B, D_emb)
        shown = (condition, tokens) if tokens.shape[-1] > 0 else (condition,)

        xt = self.diffusion.q_sample(x0, t, eps)
        with torch.autocast(xt.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            output = net(xt, t, *shown).to(xt.dtype)
        losses = self.diffusion.errors(output, x0, t, eps)
        if self.own_loss is None:
            return losses
        own = None if embs is None else embs.expand(len(x0), -1)
        term = self.own_loss(net, own, ShownBatch(x0, xt, t, tokens, output))
        require(
            term.shape == losses.shape,
            f"a method's loss of shape {tuple(losses.shape)}, a number for each image",
            tuple(term.shape),
            "take the mean over all dimensions but the first",
        )
        return losses + term


def to_float(images: Tensor) -> Tensor:
    """Return uint8 images (B, C, H, W) as float32 in [-1, 1], contiguous; latents as they are.

    Contiguous, because images from files have their channels last in memory. For such an input that
    needs no gradient, torch 2.13 crashes (SIGSEGV) in the gradient of a group normalisation with
    trained weights.
    """
    if images.is_floating_point():
        return images.contiguous()
    return images.contiguous().float() / 127.5 - 1.0


@contextlib.contextmanager
def seeded_dropout(model: FlatModel, seed: int, *counters: int) -> Iterator[None]:
    """Seed the network's dropout by seed and counters; restore torch's global stream at the end."""
    device = model.weights.device
    if model.net.config.dropout == 0.0:
        yield
        return
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(derive_seed(seed, "dropout", *counters))
        yield


def trained_leaves(
    model: FlatWeights, client_emb: nn.Parameter | None, parts: Collection[str]
) -> dict[str, nn.Parameter]:
    """Return the tensors that an optimizer steps for these parts.

    The embedding's gradient is allocated here.
    """
    leaves = {part: model.leaves[part] for part in parts if part in model.leaves}
    if client_emb is not None and CLIENT_EMB in parts:
        leaves[CLIENT_EMB] = client_emb
        client_emb.grad = torch.zeros_like(client_emb)
    return leaves


def training_step(
    model: FlatModel,
    client_emb: Tensor | None,
    batch: Batch,
    objective: TrainingObjective,
    generator: torch.Generator,
) -> Tensor:
    """Return the mean denoising loss of a batch; its gradients are added, part by part."""
    x0 = to_float(batch.images.to(model.weights.device))
    noise = objective.draw_noise(x0.shape, client_emb, generator, batch.tokens)
    total, size = torch.zeros((), device=x0.device), objective.micro_batch or len(x0)
    for start in range(0, len(x0), size):
        part = slice(start, start + size)
        rows = None if batch.rows is None else batch.rows[part]
        embs = None if client_emb is None else shown(client_emb, rows)
        draws = StepNoise(*(one[part] for one in noise))
        loss = objective.losses(model.net, embs, x0[part], draws).mean() * (len(draws.t) / len(x0))
        loss.backward()
        total += loss.detach()
    return total


def fit(
    model: FlatModel,
    client_emb: nn.Parameter | None,
    image_batches: Iterable[Batch],
    optimizer: Optimizer,
    objective: TrainingObjective,
    generator: torch.Generator,
) -> float:
    """Train an optimizer's parts, one step on each batch; return the mean denoising loss.

    Changes the model's weights and the embedding in place.
    """
    train_only(model.net, model.layout, optimizer.leaves)
    objective = objective.of_parts(optimizer.leaves)
    total, count = torch.zeros((), device=model.weights.device), 0
    with model.training():
        for batch in image_batches:
            optimizer.zero_grad()
            total += training_step(model, client_emb, batch, objective, generator)
            for term in objective.terms:
                term.add_gradient(model.weights, model.grads, model.layout, optimizer.leaves)
            optimizer.step()
            count += 1
    return float(total) / max(1, count)
