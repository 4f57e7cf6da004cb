"""The forward process: noise schedules, noising, the training target, and the loss.

Shapes: B batch, C image channels, H and W image sides, T timesteps of the process. `t` is a
LongTensor (B,) with values in 0..T-1, and `alpha_bar[t]` is the share of the variance that is
still image at t. Sources: Ho et al. 2020 (DDPM); Nichol & Dhariwal 2021 (cosine schedule);
Salimans & Ho 2022 (v-prediction).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from spire_core.config.diffusion import DiffusionConfig
from spire_core.pretrained.folder import load_schedule, open_backbone
from spire_core.pretrained.latents import LatentCodec, load_codec

Denoiser = Callable[[Tensor, Tensor], Tensor]
"""A network under its condition: its output (B, C, H, W) for xt (B, C, H, W), t (B,)."""


@dataclass(frozen=True, eq=False)
class NoiseSchedule:
    """A noise schedule: `alpha_bar`, float32 (T,), decreasing from almost 1 to almost 0."""

    alpha_bar: Tensor

    def to(self, device: torch.device | str) -> "NoiseSchedule":
        """Return this schedule on a device."""
        return NoiseSchedule(self.alpha_bar.to(device))

    def signal_and_noise(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return sqrt(alpha_bar[t]) and sqrt(1 - alpha_bar[t]), both (B, 1, 1, 1)."""
        alpha_bar = self.alpha_bar[t][..., None, None, None]
        return alpha_bar.sqrt(), (1.0 - alpha_bar).sqrt()

    @property
    def levels(self) -> Tensor:
        """Return each timestep's noise level (T,) on the CPU, the noise beside an image of size 1.

        sigma = sqrt((1 - alpha_bar) / alpha_bar).
        """
        return ((1.0 - self.alpha_bar) / self.alpha_bar).sqrt().cpu()

    def timesteps_between(self, lowest: float, highest: float) -> range:
        """Return the timesteps whose noise level is within these bounds."""
        levels = self.levels
        first, stop = (levels < lowest).sum().item(), (levels <= highest).sum().item()
        return range(int(first), int(stop))


def _linear_betas(num_timesteps: int) -> Tensor:
    return torch.linspace(1e-4, 0.02, num_timesteps, dtype=torch.float32)


def _cosine_betas(num_timesteps: int) -> Tensor:
    # In float32 neighbouring values would be equal, and their ratio 1.
    steps = torch.arange(num_timesteps + 1, dtype=torch.float64) / num_timesteps
    alpha_bar = torch.cos((steps + 0.008) / 1.008 * math.pi / 2) ** 2
    return (1.0 - alpha_bar[1:] / alpha_bar[:-1]).clamp(max=0.999).float()


_BETAS = {"linear": _linear_betas, "cosine": _cosine_betas}


def make_schedule(schedule: str, num_timesteps: int) -> NoiseSchedule:
    """Return the schedule alpha_bar[t] = prod_{s <= t} (1 - beta[s]) of a name in `SCHEDULES`.

    `linear`: beta from 1e-4 to 0.02, evenly spaced (Ho et al. 2020, sec. 4). As in diffusers, both
    ends are the same for every T. A T well below 1000 therefore leaves much of the image visible at
    the last timestep; prefer `cosine` there.
    `cosine`: alpha_bar ~ cos(((t + 1) / T + 0.008) / 1.008 * pi / 2) ** 2 with beta at most 0.999
    (Nichol & Dhariwal 2021, eq. 17).
    The product is taken in float32, as in diffusers' schedulers.
    """
    return NoiseSchedule(torch.cumprod(1.0 - _BETAS[schedule](num_timesteps), dim=0))


@dataclass(frozen=True, eq=False)
class Diffusion:
    """A diffusion process: its settings, and its noise schedule on a device.

    `codec` makes the latents that the process is about; without one it is about pixels.
    """

    config: DiffusionConfig
    schedule: NoiseSchedule
    codec: LatentCodec | None = None

    @classmethod
    def of(
        cls,
        config: DiffusionConfig,
        device: torch.device | str = "cpu",
        backbone: str | None = None,
    ) -> "Diffusion":
        """Return the process of a configuration, or of the pre-trained model in a folder.

        Its settings then tell the folder's number of timesteps and prediction.
        """
        if backbone is None:
            return cls(config, make_schedule(config.schedule, config.num_timesteps).to(device))
        folder = open_backbone(backbone)
        alpha_bar, prediction = load_schedule(folder)
        sizes = {"num_timesteps": len(alpha_bar), "prediction": prediction}
        config = replace(config, schedule="cosine", **sizes)
        return cls(config, NoiseSchedule(alpha_bar).to(device), load_codec(folder, device))

    def guided_timesteps(self, interval: tuple[float, float] | None) -> range | None:
        """Return the timesteps of an interval of noise levels, None for all of them."""
        return None if interval is None else self.schedule.timesteps_between(*interval)

    def shape_of(self, image_shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """Return the shape of one x0, of an image (C, H, W) or of its latents (c, h, w)."""
        return image_shape if self.codec is None else self.codec.shape_of(image_shape)

    def encoded(self, images: Tensor) -> Tensor:
        """Return images (B, C, H, W) in [-1, 1] as x0: themselves, or their latents."""
        return images if self.codec is None else self.codec.encode(images).to(images.device)

    def decoded(self, x0: Tensor) -> Tensor:
        """Return the images (B, C, H, W) of x0 on the CPU; the inverse of `encoded`."""
        return x0.cpu() if self.codec is None else self.codec.decode(x0)

    def q_sample(self, x0: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        """Return x0 (B, C, H, W) noised up to t (B,), with eps (B, C, H, W) the noise.

        xt = sqrt(alpha_bar) x0 + sqrt(1 - alpha_bar) eps (Ho et al. 2020, eq. 4).
        """
        signal, noise = self.schedule.signal_and_noise(t)
        return signal * x0 + noise * eps

    def target(self, x0: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        """Return the output (B, C, H, W) that the network is trained towards.

        `eps` itself (Ho et al. 2020, eq. 14), `x0` itself (sec. 3.2), or
        `v` = sqrt(alpha_bar) eps - sqrt(1 - alpha_bar) x0 (Salimans & Ho 2022, sec. 4).
        """
        if self.config.prediction == "eps":
            return eps
        if self.config.prediction == "x0":
            return x0
        signal, noise = self.schedule.signal_and_noise(t)
        return signal * eps - noise * x0

    def x0_eps(self, xt: Tensor, t: Tensor, output: Tensor) -> tuple[Tensor, Tensor]:
        """Return the x0 and the eps, both (B, C, H, W), that an output for xt at t (B,) implies.

        `eps`: x0 = (xt - sqrt(1 - alpha_bar) eps) / sqrt(alpha_bar) (Ho et al. 2020, eq. 15).
        `v`: x0 = sqrt(alpha_bar) xt - sqrt(1 - alpha_bar) v and
        eps = sqrt(1 - alpha_bar) xt + sqrt(alpha_bar) v (Salimans & Ho 2022, app. D).
        `x0`: eps = (xt - sqrt(alpha_bar) x0) / sqrt(1 - alpha_bar).
        """
        signal, noise = self.schedule.signal_and_noise(t)
        if self.config.prediction == "eps":
            return (xt - noise * output) / signal, output
        if self.config.prediction == "x0":
            return output, (xt - signal * output) / noise
        return signal * xt - noise * output, noise * xt + signal * output

    def loss(self, denoiser: Denoiser, x0: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        """Return each example's squared error (B,), a mean over C, H, W (Ho et al. 2020, eq. 14).

        The error is `denoiser(xt, t)` minus the target; x0 and eps are (B, C, H, W). All arguments
        and the result may have further dimensions after B.
        """
        return self.errors(denoiser(self.q_sample(x0, t, eps), t), x0, t, eps)

    def errors(self, output: Tensor, x0: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        """Return the loss (B,) of an output (B, C, H, W)."""
        return (output - self.target(x0, t, eps)).square().flatten(-3).mean(dim=-1)


def sample_timesteps(
    batch_size: int, num_timesteps: int, t_power: float, generator: torch.Generator
) -> Tensor:
    """Return training timesteps (B,), a LongTensor on the CPU: t_i = floor(u_i ** t_power * T).

    u_i = (i + r_i) / B with r_i uniform in [0, 1) is stratified: every B-th part of [0, 1) gets one
    draw. That lowers the variance of the loss and does not change its mean. t ascends within the
    batch without a permutation, because the images of a batch are in random order already.
    """
    r = torch.rand(batch_size, generator=generator, dtype=torch.float64)
    u = (torch.arange(batch_size) + r) / batch_size
    return (u**t_power * num_timesteps).long().clamp(max=num_timesteps - 1)  # u may round to 1
