"""Gradients of single images, from which private steps are made.

Each image's gradient is the mean over K noise draws of its own, at evenly spread timesteps. More
draws cost compute and no privacy (Dockhorn et al. 2023, "noise multiplicity"). No image's gradient
depends on another image, nor on which others a step has: draws are public, and a function of the
image itself. An image is shown with its caption, if it has one. B: images, K: draws, M: embeddings
of a client, P: numbers that are trained.
"""

import contextlib
import hashlib
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from spire_core.network.flat_model import FlatModel
from spire_core.training.context import ClientContext
from spire_core.training.fit import StepNoise, TrainingObjective, to_float

MAX_ROWS = 1024  # images times draws in one pass through the network
MAX_NUMBERS = 2**24  # of the gradients that are in memory at once


class Piece(NamedTuple):
    """Images that are computed together, with the public draws of a step."""

    images: Tensor  # (B, C, H, W) uint8
    t: Tensor  # (B, K)
    eps: Tensor  # (B, K, C, H, W)
    tokens: Tensor  # (B, L) their captions; L is 0 without text


def pieces(
    client: ClientContext, num_draws: int, size: int, step: int, objective: TrainingObjective
) -> Iterator[Piece]:
    """Yield a client's images in pieces of at most `size`, with a step's draws; none of no images.

    The draws of an image come from the run's public seed, the step and the image, and not from
    its place: with or without another image they are the same. The guarantee needs no more of
    them. t = floor(u^power T), where every K-th part of [0, 1) gives one u.
    """
    tokens, num_timesteps = client.tokens, objective.num_timesteps
    if tokens is None:
        tokens = torch.zeros(len(client.images), 0, dtype=torch.int64)
    for start in range(0, len(client.images), size):
        own, r, eps = client.images[start : start + size], list[Tensor](), list[Tensor]()
        for image in own:
            generator = client.generator("private_draws", step, _number_of(image))
            r.append(torch.rand(num_draws, generator=generator, dtype=torch.float64))
            eps.append(torch.randn(num_draws, *image.shape, generator=generator))
        u = (torch.arange(num_draws) + torch.stack(r)) / num_draws
        t = (u**objective.diffusion.config.t_power * num_timesteps).long()
        t = t.clamp(max=num_timesteps - 1)
        yield Piece(own, t, torch.stack(eps), tokens[start : start + size])


def _number_of(image: Tensor) -> int:
    """Return a number that stands for an image, wherever it stands.

    A latent stands for its image with the bits that this machine computes (docs/privacy.md).
    """
    return int.from_bytes(hashlib.sha256(image.cpu().numpy().tobytes()).digest()[:8], "big")


def images_at_once(num_draws: int, num_numbers: int) -> int:
    """Return of how many images gradients of so many numbers are computed in one pass."""
    return max(1, min(MAX_ROWS // num_draws, MAX_NUMBERS // max(1, num_numbers)))


def whole_draws(t: Tensor, eps: Tensor, tokens: Tensor) -> StepNoise:
    """Return draws t (N,) and eps (N, C, H, W) that drop no caption (N, L).

    Embeddings are shown as they are.
    """
    kept = torch.ones(len(t), 1, dtype=torch.bool, device=t.device)
    return StepNoise(t, eps, kept, tokens)


def embedding_gradients(
    model: FlatModel, objective: TrainingObjective, embs: Tensor, piece: Piece
) -> Tensor:
    """Return the gradients (B, M D_emb) of images, each for its own row of embeddings.

    Of several embeddings, only that with the image's lowest loss has a gradient. One backward pass
    gives all: an embedding that is shown with one image alone has that image's gradient.
    """
    rows = _repeated(model, embs, piece).requires_grad_()
    losses = _losses(model, objective, rows, piece)
    [gradients] = torch.autograd.grad(losses.sum(), rows)
    gradients = gradients.unflatten(0, losses.shape).mean(2)  # (B, M, D_emb)
    return (gradients * _lowest(losses)[..., None]).flatten(1)


@torch.no_grad()
def lowest_losses(
    model: FlatModel, objective: TrainingObjective, embs: Tensor, piece: Piece
) -> Tensor:
    """Return which of its embeddings (B, M D_emb) has each image's lowest loss, as 1 in (B, M)."""
    return _lowest(_losses(model, objective, _repeated(model, embs, piece), piece))


def _repeated(model: FlatModel, embs: Tensor, piece: Piece) -> Tensor:
    """Return the embeddings (B, M D_emb) as rows (B M K, D_emb), once for each draw."""
    rows = embs.detach().reshape(-1, model.net.config.d_emb)
    return rows.repeat_interleave(piece.t.shape[1], 0)


def _losses(model: FlatModel, objective: TrainingObjective, rows: Tensor, piece: Piece) -> Tensor:
    """Return the losses (B, M, K) of images with rows (B M K, D_emb)."""
    (num_images, num_draws), device = piece.t.shape, rows.device
    shape = num_images, len(rows) // (num_images * num_draws), num_draws

    def of_rows(values: Tensor) -> Tensor:  # (B, 1 or K, ...) as (B M K, ...)
        return values[:, None].expand(*shape, *values.shape[2:]).flatten(0, 2)

    x0 = of_rows(to_float(piece.images.to(device))[:, None])
    noise = whole_draws(of_rows(piece.t), of_rows(piece.eps), of_rows(piece.tokens[:, None]))
    return objective.losses(model.net, rows, x0, noise).view(shape)


def _lowest(losses: Tensor) -> Tensor:
    """Return which embedding has each image's lowest mean loss (B, M, K), as 1 in (B, M)."""
    return F.one_hot(losses.detach().mean(2).argmin(1), losses.shape[1])


@contextlib.contextmanager
def _plain_attention() -> Iterator[None]:
    """Compute attention by matrix products: torch.func knows no fused one.

    In bfloat16 throughout, since torch else mixes types that its backward pass refuses.
    """
    settings, kernel = torch.backends.cuda, sdpa_kernel(SDPBackend.MATH)  # they count on CPUs too
    before = settings.fp16_bf16_reduction_math_sdp_allowed()
    settings.allow_fp16_bf16_reduction_math_sdp(True)
    try:
        with kernel:
            yield
    finally:
        settings.allow_fp16_bf16_reduction_math_sdp(before)


class PartGradients:
    """Gradients of single images in one part of the network, by `torch.func`."""

    def __init__(self, model: FlatModel, objective: TrainingObjective, part: str) -> None:
        self.model, self.objective, self.at = model, objective, model.layout.parts[part]
        self._of_images = vmap(grad(self._loss), in_dims=(None, 0, 0, 0, 0))

    def __call__(self, weights: Tensor, piece: Piece) -> Tensor:
        """Return the gradients (B, P) of images at the part's weights (P,)."""
        images, t, eps, tokens = (rows.to(weights.device) for rows in piece)
        # By layer: the gradient of every slice of a flat vector would be as long as the vector.
        named = self._named(weights.detach())
        with _plain_attention():
            gradients = self._of_images(named, to_float(images), t, eps, tokens)
        return torch.cat([gradients[name].flatten(1) for name in named], 1)

    def _named(self, weights: Tensor) -> dict[str, Tensor]:
        """Return the part's weights (P,) as the network's named tensors, in their order."""
        first, stop = self.at.start, self.at.stop
        return {
            name: weights[start - first : start - first + shape.numel()].view(shape)
            for name, start, shape in self.model.layout.names
            if first <= start < stop
        }

    def _loss(
        self, named: dict[str, Tensor], x0: Tensor, t: Tensor, eps: Tensor, tokens: Tensor
    ) -> Tensor:
        """Return the mean loss over the draws t (K,) and eps (K, C, H, W) of one image.

        `named` are the part's weights, `tokens` (L,) is the image's caption.
        """

        def net(*shown: Tensor | None) -> Tensor:
            return functional_call(self.model.net, named, shown)

        noise = whole_draws(t, eps, tokens.expand(len(t), -1))
        return self.objective.losses(net, None, x0.expand_as(eps), noise).mean()
