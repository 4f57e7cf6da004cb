"""The attack on adapted models: who counts as a member, and models that know images by heart."""

import pytest
import torch
from torch import Tensor

from pipeline.audit.models import LOSS_TIMES, denoising_losses
from spire_core.config.diffusion import DiffusionConfig
from spire_core.diffusion.process import Diffusion

IMAGES = torch.randn(4, 1, 6, 6, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)


@pytest.mark.parametrize("num_timesteps", [1000, 2])
@pytest.mark.parametrize("prediction", ["eps", "v"])
def test_a_model_that_knows_one_image_is_found_out(prediction: str, num_timesteps: int) -> None:
    """Its network names the first image whatever it sees, so the loss of that image is zero."""
    config = DiffusionConfig(prediction=prediction, num_timesteps=num_timesteps, sample_steps=2)
    diffusion = Diffusion.of(config)

    def denoise(xt: Tensor, t: Tensor) -> Tensor:
        signal, noise = diffusion.schedule.signal_and_noise(t)
        eps = (xt - signal * IMAGES[:1]) / noise
        return diffusion.target(IMAGES[:1].expand_as(xt), t, eps)

    losses = denoising_losses(denoise, diffusion, IMAGES, LOSS_TIMES, seed=0)
    assert losses.shape == (len(LOSS_TIMES), 4)
    assert losses[:, 0].max() < 1e-5
    assert losses[:, 1:].min() > 100 * losses[:, 0].max()
    assert torch.equal(losses, denoising_losses(denoise, diffusion, IMAGES, LOSS_TIMES, seed=0))
