"""What a client's model is worth: images drawn as that client, and the loss on unseen images.

Draws depend on the seed and the client alone, so that methods, rounds and epochs are compared on
the same noise. B, C, H, W as usual; D_emb: numbers of an embedding.
"""

import torch
from torch import Tensor

from spire_core.diffusion.process import denoising_loss, sample_timesteps
from spire_core.network.flat_model import FlatModel
from spire_core.rng import torch_generator
from spire_core.training.fit import Recipe, to_float


def heldout_loss(
    model: FlatModel,
    client_emb: Tensor | None,
    images: Tensor,
    recipe: Recipe,
    seed: int,
    client_id: int,
    purpose: str = "heldout",
) -> float:
    """Return the mean of `heldout_losses`."""
    return float(heldout_losses(model, client_emb, images, recipe, seed, client_id, purpose).mean())


@torch.inference_mode()
def heldout_losses(
    model: FlatModel,
    client_emb: Tensor | None,
    images: Tensor,
    recipe: Recipe,
    seed: int,
    client_id: int,
    purpose: str = "heldout",
) -> Tensor:
    """Return the denoising loss (N,) float64 on each of uint8 images (N, C, H, W).

    It is taken at fixed noise, that of `purpose`; timesteps are spread evenly.
    """
    generator = torch_generator(seed, purpose, client_id)
    diffusion, device = recipe.diffusion, model.weights.device
    t = sample_timesteps(len(images), diffusion.num_timesteps, 1.0, generator)
    eps = torch.randn(images.shape, generator=generator)
    emb = None if client_emb is None else client_emb.expand(len(images), -1)
    losses = denoising_loss(
        recipe.schedule,
        diffusion.prediction,
        lambda xt, steps: model.net(xt, steps, emb),
        to_float(images.to(device)),
        t.to(device),
        eps.to(device),
    )
    return losses.double()
