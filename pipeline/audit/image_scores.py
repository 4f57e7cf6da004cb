"""Scores of single images under a diffusion model; a higher score says "trained on".

N: images; M: draws of noise; B, C, H, W as usual. Timesteps are given for a process of 1000 and
scaled to the run's.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from spire_core.diffusion.process import Denoiser, Diffusion
from spire_core.rng import torch_generator

LOSS_TIMES = (50, 100, 200, 300)
NUM_DRAWS = 16  # of noise, at each of these times
INVERTED_TO, INVERSION_STEP = 100, 10  # of SecMI
FULL = 1000
CHUNK = 256  # images in a forward pass


def scaled(t: int, diffusion: Diffusion) -> int:
    """Return a timestep of a process of 1000 in this process; at least 1."""
    num_timesteps = diffusion.config.num_timesteps
    return min(num_timesteps - 1, max(1, round(t * num_timesteps / FULL)))


@torch.inference_mode()
def denoising_losses(
    denoise: Denoiser, diffusion: Diffusion, x0: Tensor, times: Sequence[int], seed: int
) -> Tensor:
    """Return the mean denoising loss (len(times), N) float64 of images x0 (N, C, H, W).

    Image i meets the same M draws of noise in every call, so that losses of two models can be
    subtracted.
    """
    device, losses = x0.device, torch.zeros(len(times), len(x0), dtype=torch.float64)
    for row, time in enumerate(times):
        generator = torch_generator(seed, "audit_noise", time)
        for _ in range(NUM_DRAWS):
            eps = torch.randn(x0.shape, generator=generator).to(device)
            t = torch.full((len(x0),), scaled(time, diffusion), device=device)
            for at in torch.arange(len(x0)).split(CHUNK):
                loss = diffusion.loss(denoise, x0[at], t[at], eps[at])
                losses[row, at] += loss.double().cpu() / NUM_DRAWS
    return losses


@torch.inference_mode()
def inversion_errors(denoise: Denoiser, diffusion: Diffusion, x0: Tensor) -> Tensor:
    """Return SecMI's t-error (N,) float64 of images x0 (N, C, H, W) (Duan et al. 2023, eq. 9).

    Deterministic DDIM steps take an image to t = 100; then one step further and back. Images that
    the model was trained on come back closer. Of a process of two timesteps no step goes before.
    """
    step = scaled(INVERSION_STEP, diffusion)
    end = min(scaled(INVERTED_TO, diffusion), diffusion.config.num_timesteps - 1 - step)
    errors = []
    for images in x0.split(CHUNK):
        xt, t = images, 0
        while t < end:
            xt, t = _moved(denoise, diffusion, xt, t, t + step), t + step
        there = _moved(denoise, diffusion, xt, t, t + step)
        back = _moved(denoise, diffusion, there, t + step, t)
        errors.append((back - xt).double().square().flatten(1).sum(dim=1).cpu())
    return torch.cat(errors)


def _moved(denoise: Denoiser, diffusion: Diffusion, xt: Tensor, t: int, target: int) -> Tensor:
    """Return xt (B, C, H, W) moved from t to another timestep by a DDIM step (eta = 0)."""
    now = torch.full((len(xt),), t, device=xt.device)
    x0, eps = diffusion.x0_eps(xt, now, denoise(xt, now))
    return diffusion.q_sample(x0, torch.full_like(now, target), eps)


def nearest_distances(x0: Tensor, generated: Tensor) -> Tensor:
    """Return the distance (N,) float64 of images to their nearest generated one, over pixels."""
    return torch.cdist(x0.flatten(1).double(), generated.flatten(1).double()).amin(dim=1).cpu()
