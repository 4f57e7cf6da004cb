"""Local training: gradient steps of one client on chosen parts of the network and on its embedding.

Pre-training rounds and the adaptation of new clients both run `fit`; they differ in the parts, the
rates and the moments that they pass. B: batch size; D_emb: numbers of an embedding.
"""

import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from spire_core.config.diffusion import DiffusionConfig
from spire_core.diffusion.process import Denoiser, NoiseSchedule, denoising_loss, sample_timesteps
from spire_core.errors import ConfigError
from spire_core.methods import CLIENT_EMB
from spire_core.network.flat_model import FlatModel, FlatWeights, train_only
from spire_core.rng import derive_seed
from spire_core.training.adam import Adam, PartMoments


@dataclass(frozen=True)
class Recipe:
    """The diffusion objective as training needs it.

    `compiled_batch`: the rows that the compiled network takes at once; None where it is not
    compiled.
    """

    diffusion: DiffusionConfig
    schedule: NoiseSchedule
    betas: tuple[float, float]
    emb_dropout: float = 0.0
    precision: str = "float32"
    compiled_batch: int | None = None

    def predict(self, net: Callable[..., Tensor], condition: Tensor | None) -> Denoiser:
        """Return the network's prediction under a condition, computed in this precision."""

        def predict(xt: Tensor, t: Tensor) -> Tensor:
            if self.precision != "bf16":
                return net(xt, t, condition)
            with torch.autocast(xt.device.type, torch.bfloat16):
                return net(xt, t, condition).to(xt.dtype)

        return predict


def to_float(images: Tensor) -> Tensor:
    """Return uint8 images (B, C, H, W) as float32 in [-1, 1], contiguous.

    Torch 2.13 ends the process (SIGSEGV) in the gradient of a group normalisation with trained
    weights whose input has its channels last in memory, as images of files do, and no gradient.
    """
    return images.contiguous().float() / 127.5 - 1.0


def batches(
    num_examples: int, batch_size: int, num_steps: int, generator: torch.Generator
) -> Iterator[Tensor]:
    """Yield `num_steps` index batches: passes over shuffled data, reshuffled after each pass."""
    taken = 0
    while taken < num_steps:
        for chunk in torch.randperm(num_examples, generator=generator).split(batch_size):
            if taken == num_steps:
                return
            taken += 1
            yield chunk


@contextlib.contextmanager
def seeded_dropout(model: FlatModel, seed: int, *counters: int) -> Iterator[None]:
    """Make the network's dropout a function of seed and counters; torch's own stream stays."""
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
    """Return what an optimizer steps for these parts, with room for the embedding's gradient."""
    leaves = {part: model.leaves[part] for part in parts if part in model.leaves}
    if client_emb is not None and CLIENT_EMB in parts:
        leaves[CLIENT_EMB] = client_emb
        client_emb.grad = torch.zeros_like(client_emb)
    return leaves


def draw_noise(
    shape: torch.Size, has_embedding: bool, recipe: Recipe, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Return what a step draws for a batch of this shape: timesteps (B,), noise (B, C, H, W), and
    kept (B, 1), which says of each example whether it is shown with its embedding.
    """
    diffusion = recipe.diffusion
    t = sample_timesteps(shape[0], diffusion.num_timesteps, diffusion.t_power, generator)
    eps = torch.randn(shape, generator=generator)
    kept = torch.ones(shape[0], 1, dtype=torch.bool)
    if has_embedding and recipe.emb_dropout > 0:
        kept = torch.rand(shape[0], 1, generator=generator) >= recipe.emb_dropout
    return t, eps, kept


def filled(rows: Tensor, num_rows: int) -> Tensor:
    """Return rows (n, ...) and zeros below them, `num_rows` in all."""
    return torch.cat([rows, rows.new_zeros(num_rows - len(rows), *rows.shape[1:])])


@contextlib.contextmanager
def compiling() -> Iterator[None]:
    """Raise ConfigError where torch's compiler fails, which it may in forward or backward."""
    from torch._dynamo.exc import TorchDynamoException  # torch's compiler comes with it: 1.5 s

    try:
        yield
    except TorchDynamoException as error:
        raise ConfigError(
            f"expected a network that torch.compile can compile, got "
            f"{str(error).splitlines()[0]!r}: install a C++ compiler and Python's headers, or "
            "leave client.compile=false"
        ) from error


def training_step(
    model: FlatModel,
    client_emb: Tensor | None,
    x0: Tensor,
    recipe: Recipe,
    generator: torch.Generator,
) -> Tensor:
    """Return the mean denoising loss of a batch x0 (B, C, H, W); its gradients are added."""
    device, net, size = model.weights.device, model.net, len(x0)
    rows = (x0, *draw_noise(x0.shape, client_emb is not None, recipe, generator))
    if recipe.compiled_batch is not None:  # every other shape would be compiled by itself
        net, rows = model.compiled, tuple(filled(r, recipe.compiled_batch) for r in rows)
    x0, t, eps, kept = (r.to(device) for r in rows)
    condition = None if client_emb is None else client_emb * kept  # (B, D_emb)
    denoiser = recipe.predict(net, condition)
    with contextlib.nullcontext() if recipe.compiled_batch is None else compiling():
        losses = denoising_loss(recipe.schedule, recipe.diffusion.prediction, denoiser, x0, t, eps)
        loss = losses[:size].mean()
        loss.backward()
    return loss.detach()


def fit(
    model: FlatModel,
    client_emb: nn.Parameter | None,
    images: Tensor,
    index_batches: Iterator[Tensor],
    rates: Mapping[str, float],
    moments: Mapping[str, PartMoments],
    recipe: Recipe,
    generator: torch.Generator,
) -> tuple[float, dict[str, PartMoments]]:
    """Train the parts named in `rates` over the given batches of uint8 images (N, C, H, W).

    Changes the model's weights and the embedding in place; returns the mean loss and the parts' new
    moments.
    """
    leaves = trained_leaves(model, client_emb, rates)
    train_only(model.net, model.layout, leaves)
    optimizer = Adam(leaves, rates, moments, recipe.betas)
    total, count = torch.zeros((), device=model.weights.device), 0
    with model.training():
        for index in index_batches:
            optimizer.zero_grad()
            x0 = to_float(images[index].to(model.weights.device))
            total += training_step(model, client_emb, x0, recipe, generator)
            optimizer.step()
            count += 1
    return float(total) / max(1, count), optimizer.moments
