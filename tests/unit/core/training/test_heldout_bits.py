"""Held-out bits against a closed form, and on real digits: who copies loses."""

import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from spire_core.config.diffusion import DiffusionConfig
from spire_core.diffusion.process import Diffusion
from spire_core.training import heldout
from spire_core.training.context import ClientContext
from spire_core.training.heldout import heldout_bits


def as_model(diffusion: Diffusion, x0_of: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Any:
    """A model whose image x0 is `x0_of` the noised image, its signal and its noise."""

    def net(xt: Tensor, t: Tensor, emb: None) -> Tensor:
        signal, noise = diffusion.schedule.signal_and_noise(t)
        x0 = x0_of(xt, signal, noise)
        return diffusion.target(x0, t, (xt - signal * x0) / noise)

    return SimpleNamespace(net=net, weights=torch.zeros(1))


def test_of_a_gaussian_they_are_its_entropy(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the terms of the prior and of the least noise, for the denoiser that knows it."""
    monkeypatch.setattr(heldout, "NUM_DRAWS", 999)
    diffusion = Diffusion.of(DiffusionConfig(num_timesteps=1000))
    std = 0.5
    images = std * torch.randn(2000, 1, 2, 2, generator=torch.Generator().manual_seed(0))

    def posterior_mean(xt: Tensor, signal: Tensor, noise: Tensor) -> Tensor:
        return signal * std**2 / ((signal * std) ** 2 + noise**2) * xt

    model = as_model(diffusion, posterior_mean)
    found = heldout_bits(model, None, ClientContext(0, 0, images), diffusion).mean() * math.log(2)
    alpha_bar = diffusion.schedule.alpha_bar.double()
    least = 0.5 * math.log(2 * math.pi * math.e * float((1 - alpha_bar[0]) / alpha_bar[0]))
    last = float(alpha_bar[-1])
    prior = 0.5 * (last * std**2 + (1 - last) - 1 - math.log(1 - last))
    entropy = 0.5 * math.log(2 * math.pi * math.e * std**2)
    assert float(found) + least + prior == pytest.approx(entropy, abs=0.02)


def test_the_denoiser_of_copies_has_more_than_that_of_many_images(mnist_root: Path) -> None:
    """Of 64 images that a client shows, of 2,000 fresh ones of its classes, of all classes."""
    with np.load(mnist_root / "mnist.npz") as stored:
        labels = stored["test_labels"].astype(np.int64)
        small = F.adaptive_avg_pool2d(
            torch.from_numpy(stored["test_images"]).float().reshape(-1, 1, 28, 28), 8
        )
    diffusion = Diffusion.of(DiffusionConfig(num_timesteps=200))
    own = torch.from_numpy(np.random.default_rng(0).permutation(np.flatnonzero(labels < 3)))
    pixels = small / 127.5 - 1
    client = ClientContext(0, 0, pixels[own[:64]])

    def bits(images: Tensor) -> float:
        def posterior_mean(xt: Tensor, signal: Tensor, noise: Tensor) -> Tensor:
            squared = torch.cdist(xt.flatten(1), signal[0].item() * images.flatten(1)).square()
            shares = torch.softmax(-squared / (2 * noise[0].item() ** 2), dim=1)
            return (shares @ images.flatten(1)).view_as(xt)

        return float(
            heldout_bits(as_model(diffusion, posterior_mean), None, client, diffusion).mean()
        )

    fresh, others = bits(pixels[own[64:2064]]), bits(pixels[labels > 6])
    copies = bits(pixels[own[2064:2128]])
    assert fresh < min(others, copies)
