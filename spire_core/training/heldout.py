"""The loss of a client's model on held-out images, and its bits, at fixed noise.

The noise depends on the seed, the client and the purpose alone, so that methods, rounds and epochs
are compared on the same noise. N: images.
"""

import math

import torch
from torch import Tensor

from spire_core.diffusion.process import Diffusion, sample_timesteps
from spire_core.network.flat_model import FlatModel
from spire_core.training.context import ClientContext
from spire_core.training.fit import to_float
from spire_core.training.several import is_table, shown

NUM_DRAWS = 16  # of a timestep and noise for the bits of an image
MAX_ROWS = 512  # evaluated at a time, which bounds memory: a client may hold or set aside thousands


def heldout_losses(
    model: FlatModel,
    client_emb: Tensor | None,
    client: ClientContext,
    diffusion: Diffusion,
    purpose: str = "heldout",
) -> Tensor:
    """Return the denoising loss (N,) float64 on each of the client's N images.

    `purpose` names the stream of the noise; timesteps are spread evenly. Of several embeddings each
    image has that of its row. Without rows the loss is the mean over embeddings by their weights.
    """
    if client_emb is not None and client.rows is not None:
        client_emb = shown(client_emb, client.rows.to(client_emb.device))
    elif client_emb is not None and is_table(client_emb):
        rows = (heldout_losses(model, e, client, diffusion, purpose) for e in client_emb[:, :-1])
        return torch.stack([*rows], dim=1).cpu() @ _weights(client_emb)
    images, generator = client.images, client.generator(purpose)
    t = sample_timesteps(len(images), diffusion.config.num_timesteps, 1.0, generator)
    eps = torch.randn(images.shape, generator=generator)
    return _losses(model, client_emb, client, diffusion, t, eps)


def _weights(table: Tensor) -> Tensor:
    return table[:, -1].detach().cpu().double()


def heldout_bits(
    model: FlatModel, client_emb: Tensor | None, client: ClientContext, diffusion: Diffusion
) -> Tensor:
    """Return the negative ELBO (N,) float64 of the client's N images, in bits a dimension.

    It is that without the terms that no network changes, those of the prior and of the least noise:
    differences between networks are those of the whole. It is the integral of half the error of eps
    over the logarithm of SNR (Kingma et al. 2021, arXiv 2107.00630, section 5.1), estimated from
    `NUM_DRAWS` timesteps, spread evenly, with the same noise for all networks. With several
    embeddings it is -log of the mean of exp(-ELBO) by their weights.
    """
    if client_emb is not None and is_table(client_emb):
        own = [heldout_bits(model, emb, client, diffusion) for emb in client_emb[:, :-1]]
        num_dims = math.prod(client.images.shape[1:])
        nats = -torch.stack(own, dim=1) * math.log(2) * num_dims
        return -(nats + _weights(client_emb).log()).logsumexp(1) / math.log(2) / num_dims
    images, generator, bits = client.images, client.generator("bits"), torch.zeros(())
    weights = _elbo_weights(diffusion)
    for t in sample_timesteps(NUM_DRAWS, len(weights), 1.0, generator):
        eps = torch.randn(images.shape, generator=generator)
        losses = _losses(model, client_emb, client, diffusion, t.expand(len(images)), eps)
        bits = bits + weights[t] * losses.cpu()
    return bits * len(weights) / NUM_DRAWS / math.log(2)


def _elbo_weights(diffusion: Diffusion) -> Tensor:
    """Return the weight (T,) float64 of each timestep's denoising loss in the negative ELBO.

    Half the logarithm of SNR between the middles of the steps to its neighbours, for the error of
    eps; that of x0 is 1 / SNR times, that of v is 1 + 1 / SNR times as large.
    """
    alpha_bar = diffusion.schedule.alpha_bar.double().cpu()
    snr = alpha_bar / (1 - alpha_bar)
    steps = torch.nn.functional.pad(-snr.log().diff(), (1, 1))
    scale = {"eps": torch.ones_like(snr), "x0": snr, "v": alpha_bar}[diffusion.config.prediction]
    return (steps[:-1] + steps[1:]) / 4 * scale


@torch.inference_mode()
def _losses(
    model: FlatModel,
    client_emb: Tensor | None,
    client: ClientContext,
    diffusion: Diffusion,
    t: Tensor,
    eps: Tensor,
) -> Tensor:
    """Return the losses (N,) float64 of the client's images at t (N,) with this noise."""
    device = model.weights.device
    embs = () if client_emb is None else (client_emb.expand(len(t), -1),)
    tokens = () if client.tokens is None else (client.tokens,)
    rows = (client.images, t, eps, *embs, *tokens)

    def losses(*chunk: Tensor) -> Tensor:
        x0, at, noise, *given = (some.to(device) for some in chunk)
        given = given if embs else [None, *given]
        return diffusion.loss(
            lambda xt, at: model.net(xt, at, *given), to_float(x0), at, noise
        ).double()

    return torch.cat(
        [losses(*chunk) for chunk in zip(*(of.split(MAX_ROWS) for of in rows), strict=True)]
    )
