"""The denoising loss of a client's model on held-out images, at fixed noise.

The noise depends on the seed, the client and the purpose alone, so that methods, rounds and epochs
are compared on the same noise.
"""

import torch
from torch import Tensor

from spire_core.diffusion.process import Diffusion, sample_timesteps
from spire_core.network.flat_model import FlatModel
from spire_core.training.context import ClientContext
from spire_core.training.fit import to_float

MAX_ROWS = 512  # evaluated at a time, which bounds memory: a client may hold or set aside thousands


@torch.inference_mode()
def heldout_losses(
    model: FlatModel,
    client_emb: Tensor | None,
    client: ClientContext,
    diffusion: Diffusion,
    purpose: str = "heldout",
) -> Tensor:
    """Return the denoising loss (N,) float64 on each of the client's N images.

    `purpose` names the stream of the noise; timesteps are spread evenly.
    """
    images, generator = client.images, client.generator(purpose)
    t = sample_timesteps(len(images), diffusion.config.num_timesteps, 1.0, generator)
    eps = torch.randn(images.shape, generator=generator)
    rows = (images, t, eps) if client.tokens is None else (images, t, eps, client.tokens)
    chunks = zip(*(of_all.split(MAX_ROWS) for of_all in rows), strict=True)
    return torch.cat([_losses(model, client_emb, diffusion, *chunk) for chunk in chunks])


def _losses(
    model: FlatModel,
    client_emb: Tensor | None,
    diffusion: Diffusion,
    images: Tensor,
    *rows: Tensor,
) -> Tensor:
    """Return the losses (n,) float64 of images whose `rows` are timesteps, noise and any text."""
    x0, t, eps, *tokens = (some.to(model.weights.device) for some in (images, *rows))
    emb = None if client_emb is None else client_emb.expand(len(images), -1)
    losses = diffusion.loss(lambda xt, t: model.net(xt, t, emb, *tokens), to_float(x0), t, eps)
    return losses.double()
