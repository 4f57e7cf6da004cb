"""Scores of single images under models that know one image by heart."""

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.audit.image_scores import (
    LOSS_TIMES,
    denoising_losses,
    inversion_errors,
    nearest_distances,
    scaled,
)
from spire_core.config.diffusion import DiffusionConfig
from spire_core.diffusion.process import Diffusion

IMAGES = torch.randn(4, 1, 6, 6, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)


@pytest.mark.parametrize("num_timesteps", [1000, 100, 3, 2])
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
    again = denoising_losses(denoise, diffusion, IMAGES, LOSS_TIMES, seed=0)
    assert torch.equal(losses, again)
    errors = inversion_errors(denoise, diffusion, IMAGES)
    assert errors.shape == (4,)
    assert errors.argmin() == 0
    assert errors[0] < 1e-4


def test_timesteps_fit_the_process() -> None:
    diffusion = Diffusion.of(DiffusionConfig(num_timesteps=100))
    assert [scaled(t, diffusion) for t in (1, 50, 300, 2000)] == [1, 5, 30, 99]


def test_distances_by_hand() -> None:
    real = torch.zeros(2, 1, 1, 2)
    real[1] = 1.0
    generated = torch.tensor([[[[3.0, 4.0]]], [[[1.0, 2.0]]]])
    expected = [5**0.5, 1.0]
    np.testing.assert_allclose(nearest_distances(real, generated).numpy(), expected)
