"""Local training: gradient steps of one client on chosen parts of the network and on its embedding.

Pre-training rounds and the adaptation of new clients both run `fit`; they differ in the parts, the
rates and the moments that they pass. B: batch size; D_emb: numbers of an embedding.
"""

import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from spire_core.adam import Adam, Moments
from spire_core.errors import ConfigError
from spire_core.flat import FlatModel, FlatWeights, train_only
from spire_core.methods import BODY, CLIENT_EMB, EMB_PROJ, LOCAL
from spire_core.rng import derive_seed
from spire_core.schedule import (
    Denoiser,
    DiffusionConfig,
    NoiseSchedule,
    denoising_loss,
    sample_timesteps,
)

COMPRESSIONS = ("none", "bf16", "int8", "top_k")
PRECISIONS = ("float32", "tf32", "bf16")


@dataclass(frozen=True)
class ClientConfig:
    """How a client trains in pre-training.

    `lr` is the backbone's rate, `emb_lr` the embedding's; the embedding's projection trains at `lr`
    times `emb_proj_lr_factor`. `opt_state` says what becomes of the backbone's Adam moments between
    rounds: "reset", "keep" (each client keeps its own) or "average" (they travel and are averaged
    like the weights). `emb_dropout` is the chance that an example is shown without its embedding
    (classifier-free guidance, Ho & Salimans 2022); it also makes zero a meaningful start for a new
    client.

    `engine` says how a cohort is computed: "loop" trains one client after the other, "grouped"
    several as one computation (`grouped`), at most `group_size` of them, and "auto" takes the one
    that suits the network (`choose_engine`). The cohort, in the order of client ids, is cut into
    groups of that size, None standing for `largest_group`; as float sums differ in their last bits
    from one size to another, both settings belong to what determines a result.

    `compression` is the form in which a client sends its change of the weights (`compression`);
    of "top_k" the share `top_k_fraction` of its coordinates.

    `precision` is that of the network as it trains, in rounds and for a new client: with "bf16"
    convolutions and matrix products run in bfloat16 (`torch.autocast`), while weights, gradients,
    Adam and all evaluation stay float32. "tf32" lets a GPU round the factors of its matrix products
    to 10 bits, as torch lets it in convolutions anyway, also in evaluation; on a CPU it is float32.

    `compile` has `torch.compile` translate the network that `fit` trains, on a GPU into CUDA
    graphs. It is for the loop engine.
    """

    batch_size: int = 16
    lr: float = 2e-3
    emb_lr: float = 5e-2
    emb_proj_lr_factor: float = 3.0
    emb_init_std: float = 1.0
    emb_dropout: float = 0.0
    opt_state: str = "average"
    lr_schedule: str = "cosine"
    warmup_rounds: int = 10
    betas: tuple[float, float] = (0.9, 0.999)
    engine: str = "auto"
    group_size: int | None = None
    compression: str = "none"
    top_k_fraction: float = 0.05
    precision: str = "float32"
    compile: bool = False

    def __post_init__(self) -> None:
        if self.compression not in COMPRESSIONS:
            raise ConfigError(
                f"expected client.compression as {', '.join(COMPRESSIONS)}, got "
                f"{self.compression!r}: choose one"
            )
        if not 0.0 < self.top_k_fraction <= 1.0:
            raise ConfigError(
                "expected client.top_k_fraction above 0 and at most 1, got "
                f"{self.top_k_fraction}: 0.05 sends one coordinate of twenty"
            )
        if self.precision not in PRECISIONS:
            raise ConfigError(
                f"expected client.precision as {' or '.join(PRECISIONS)}, got {self.precision!r}: "
                "choose one"
            )
        if self.compile and self.engine == "grouped":
            raise ConfigError(
                "expected client.engine as auto or loop with client.compile=true, got grouped: "
                "groups are not compiled"
            )
        if self.engine not in ("auto", "loop", "grouped"):
            raise ConfigError(
                f"expected client.engine as auto, loop or grouped, got {self.engine!r}: choose one"
            )
        if self.group_size is not None and self.group_size < 1:
            raise ConfigError(
                f"expected client.group_size of at least 1, got {self.group_size}: raise it"
            )
        if self.batch_size < 1:
            raise ConfigError(
                f"expected client.batch_size of at least 1, got {self.batch_size}: raise it"
            )
        if self.opt_state not in ("reset", "keep", "average"):
            raise ConfigError(
                f"expected client.opt_state as reset, keep or average, got {self.opt_state!r}: "
                "choose one"
            )
        if self.lr_schedule not in ("constant", "cosine"):
            raise ConfigError(
                f"expected client.lr_schedule as constant or cosine, got {self.lr_schedule!r}: "
                "choose one"
            )
        if not 0.0 <= self.emb_dropout < 1.0:
            raise ConfigError(
                f"expected client.emb_dropout in [0, 1), got {self.emb_dropout}: 0 turns it off"
            )
        if not all(0.0 <= beta < 1.0 for beta in self.betas):
            raise ConfigError(
                f"expected client.betas in [0, 1), got {self.betas}: 0.9 and 0.999 are usual"
            )
        for name in ("lr", "emb_lr", "emb_proj_lr_factor", "emb_init_std"):
            if getattr(self, name) < 0:
                raise ConfigError(
                    f"expected client.{name} of at least 0, got {getattr(self, name)}: raise it"
                )

    def groups(self, client_ids: Sequence[int]) -> list[tuple[int, ...]]:
        """Return a cohort cut into the groups that are computed together.

        ConfigError if the engine is not chosen: "auto" depends on the network (`choose_engine`).
        """
        if self.engine == "auto":
            raise ConfigError(
                "expected client.engine as grouped or loop, got auto: choose it first"
            )
        size = self.largest_group(len(client_ids)) if self.engine == "grouped" else 1
        return [tuple(client_ids[i : i + size]) for i in range(0, len(client_ids), size)]

    def largest_group(self, num_clients: int) -> int:
        """Return how many of a round's clients are computed together at most.

        Where it is not set, 5, and more of a large cohort as long as that gives 20 groups or more,
        so that a few actors still have equal shares; 10 at most (docs/performance.md).
        """
        size = min(10, max(5, num_clients // 20)) if self.group_size is None else self.group_size
        return min(size, num_clients)

    def rates(self, scale: float) -> dict[str, float]:
        """Return the learning rate of each part; `scale` is the round's factor on all of them."""
        return {
            BODY: self.lr * scale,
            EMB_PROJ: self.lr * self.emb_proj_lr_factor * scale,
            LOCAL: self.lr * scale,
            CLIENT_EMB: self.emb_lr * scale,
        }

    def lr_scale(self, round_idx: int, num_rounds: int) -> float:
        """Return this round's factor on all rates: warm-up, then constant or half a cosine."""
        if round_idx < self.warmup_rounds:
            return (round_idx + 1) / self.warmup_rounds
        if self.lr_schedule == "constant":
            return 1.0
        done = (round_idx - self.warmup_rounds) / max(1, num_rounds - self.warmup_rounds)
        return 0.5 * (1 + float(torch.cos(torch.tensor(done * torch.pi, dtype=torch.float64))))


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


def steps_per_epoch(num_examples: int, batch_size: int) -> int:
    """Return the number of batches in one pass over the data."""
    return -(-num_examples // batch_size)


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
    moments: Mapping[str, Moments],
    recipe: Recipe,
    generator: torch.Generator,
) -> tuple[float, dict[str, Moments]]:
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
