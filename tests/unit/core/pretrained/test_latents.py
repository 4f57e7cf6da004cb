"""Images are encoded as diffusers encodes them, and all that needs an x0 is about latents."""

from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler
from diffusers.image_processor import VaeImageProcessor
from tiny_backbone import autoencoder, make, save

from spire_core.adaptation.adapt_privately import generated_client
from spire_core.config.diffusion import DiffusionConfig
from spire_core.config.method import MethodConfig
from spire_core.config.model import ModelConfig
from spire_core.diffusion.process import Diffusion
from spire_core.network.flat_model import FlatModel
from spire_core.training.fit import TrainingObjective, to_float
from spire_core.training.fixed_entrance import fixed_entrance
from spire_core.training.heldout import heldout_losses

SIZE, SIDE, D_EMB = 8, 4, 5  # images of 8 pixels a side are 4 x 4 latents
SCALE = 0.6


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    network, scheduler = make("UNet2DModel", channels=3, side=SIDE), DDIMScheduler(12)
    root = tmp_path_factory.mktemp("latents")
    return save(root, network, scheduler, vae=autoencoder(scale=SCALE))


def flat(folder: Path, method: MethodConfig) -> FlatModel:
    return FlatModel(ModelConfig(d_emb=D_EMB, backbone=str(folder)), method, 1)


def process(folder: Path) -> Diffusion:
    return Diffusion.of(DiffusionConfig(sample_steps=12, num_timesteps=12), backbone=str(folder))


def test_images_are_encoded_as_the_library_encodes_them(folder: Path) -> None:
    """By the mean of the posterior, scaled; an image's latents depend on no other image."""
    codec, vae = process(folder).codec, autoencoder(scale=SCALE)
    assert codec is not None
    pixels = torch.randint(0, 256, (3, 1, SIZE, SIZE), generator=torch.Generator().manual_seed(2))
    images = to_float(pixels.byte())
    latents = codec.encode(images)
    with torch.no_grad():
        theirs = VaeImageProcessor().normalize(pixels / 255)
        expected = vae.encode(theirs).latent_dist.mean * SCALE
        decoded = vae.decode(expected / SCALE).sample
    assert latents.shape == (3, 3, SIDE, SIDE)
    torch.testing.assert_close(latents, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(codec.decode(latents), decoded, rtol=1e-5, atol=1e-5)
    assert torch.equal(latents[1:], codec.encode(images[1:]))
    assert torch.equal(to_float(latents), latents)


def test_public_images_and_fixed_entrances_are_of_latents(folder: Path) -> None:
    model, diffusion = (
        flat(folder, MethodConfig("retrofit", projection="subspace")),
        process(folder),
    )
    weights, objective = model.weights.clone(), TrainingObjective(diffusion)
    client = generated_client(model, weights, objective, (1, SIZE, SIZE), 0)
    assert client.images.shape[1:] == (3, SIDE, SIDE)
    loss = heldout_losses(model, torch.zeros(D_EMB), client, diffusion)
    assert loss.shape == client.images.shape[:1]
    entrance = fixed_entrance(model, weights, diffusion, (1, SIZE, SIZE), "subspace", 0, 8)
    assert entrance.norm() > 1
