"""The reverse process: DDPM, DDIM and DPM-Solver++(2M) as one loop that differs in a few weights.

Every step of all three is a weighted sum,

    xt <- w.xt * xt + w.x0 * x0 + w.x0_last * x0_last + w.noise * noise,

with x0 the network's present estimate of the image and x0_last its estimate one step before. A
sampler is a rule that computes the weights, in double precision, from alpha_bar at the timesteps.

Shapes: B batch, C image channels, H and W image sides, T timesteps of the process, N steps taken.
Sources: Ho et al. 2020 (DDPM); Song et al. 2021 (DDIM); Lu et al. 2022 (DPM-Solver++, 2211.01095).
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from spire_core.config.checks import require
from spire_core.config.diffusion import DiffusionConfig
from spire_core.diffusion.process import Denoiser, Diffusion


class StepWeights(NamedTuple):
    """The factors of the four terms of one sampling step."""

    xt: float
    x0: float
    x0_last: float = 0.0
    noise: float = 0.0


WeightRule = Callable[[Sequence[float], int], StepWeights]
"""The weights of step k, given alpha_bar at the N timesteps followed by 1 (the image itself)."""


def ddim_weights(alpha_bars: Sequence[float], k: int, eta: float) -> StepWeights:
    """Return the weights of DDIM's step k (Song et al. 2021, eq. 12 and 16), eta in [0, 1].

    xt <- sqrt(ab') x0 + sqrt(1 - ab' - s^2) eps + s noise, where ab' is alpha_bar one step further
    and s^2 = eta^2 (1 - ab') / (1 - ab) (1 - ab / ab'). The weights are those after the insertion
    of eps = (xt - sqrt(ab) x0) / sqrt(1 - ab), so that eps always matches x0, clipped or not.
    """
    ab, ab_next = alpha_bars[k], alpha_bars[k + 1]
    s = eta * math.sqrt((1 - ab_next) / (1 - ab) * (1 - ab / ab_next))
    xt = math.sqrt(max(0.0, 1 - ab_next - s**2) / (1 - ab))  # from pure noise s^2 may round up
    return StepWeights(xt=xt, x0=math.sqrt(ab_next) - math.sqrt(ab) * xt, noise=s)


def dpmpp_weights(alpha_bars: Sequence[float], k: int) -> StepWeights:
    """Return the weights of DPM-Solver++(2M)'s step k (Lu et al. 2022, algorithm 2).

    xt <- sigma'/sigma xt - alpha' (e^-h - 1) ((1 + 1/(2r)) x0 - 1/(2r) x0_last), where
    alpha = sqrt(ab), sigma = sqrt(1 - ab), h is the growth of log(alpha / sigma) in this step and
    r h its growth in the step before. The first step has no x0_last and the final one an infinite
    h. Both are therefore of first order, which is DDIM (as in diffusers' default,
    `final_sigmas_type="zero"`). So is a step after one of no length, which tells of no slope.
    """
    first_order = ddim_weights(alpha_bars, k, eta=0.0)
    if k == 0 or k == len(alpha_bars) - 2 or alpha_bars[k] == alpha_bars[k - 1]:
        return first_order
    last, now, after = (0.5 * math.log(ab / (1 - ab)) for ab in alpha_bars[k - 1 : k + 2])
    extra = 0.5 * (after - now) / (now - last)
    x0 = first_order.x0
    return StepWeights(xt=first_order.xt, x0=(1 + extra) * x0, x0_last=-extra * x0)


SAMPLERS: dict[str, WeightRule] = {
    "ddpm": partial(ddim_weights, eta=1.0),
    "ddim": partial(ddim_weights, eta=0.0),
    "dpmpp": dpmpp_weights,
}
GRID_POWER = 1.5  # of the timesteps at which images are drawn


def timestep_grid(
    num_timesteps: int, num_steps: int, t_start: float = 0.985, power: float = 1.0
) -> list[int]:
    """Return N different timesteps, descending from t_start * (T - 1); N = T gives T-1, ..., 0.

    The k-th smallest timestep is at about (k / N) ** power of the range. Power 1 is even; a larger
    power spends more steps on nearly clean images, where fine detail is decided. The start is a
    little below T - 1, because there the cosine schedule is pure noise and the error of a network
    that predicts eps is multiplied by 1 / sqrt(alpha_bar): 2e4 at T - 1, 43 at 0.985 T. The start
    moves up if N different timesteps do not fit below it. From the last timestep the samplers reach
    the image in one step.
    """
    count = max(round(t_start * (num_timesteps - 1)) + 1, num_steps)
    ascending = [round(count * (k / num_steps) ** power) - 1 for k in range(1, num_steps + 1)]
    for k in range(num_steps):  # a large power crowds the low end: keep timesteps distinct
        ascending[k] = max(ascending[k], ascending[k - 1] + 1 if k else 0)
    return ascending[::-1]


def _draw_noise(xt: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
    """Return standard normal noise like xt, each generator's equal share after the other.

    It is drawn on the CPU, so that every device gets the same numbers.
    """
    shape = (len(xt) // len(generators), *xt.shape[1:])
    parts = [torch.randn(shape, generator=g, dtype=torch.float32) for g in generators]
    return torch.cat(parts).to(xt)


@torch.no_grad()
def run_sampler(
    diffusion: Diffusion,
    rule: WeightRule,
    denoiser: Denoiser,
    xT: Tensor,
    timesteps: Sequence[int],
    generators: Sequence[torch.Generator] = (),
    clip_x0: bool = True,
) -> Tensor:
    """Return images (B, C, H, W) from noise xT, by a sampler's rule along descending timesteps.

    `clip_x0` clamps every x0 to [-1, 1]: diffusers' `clip_sample` with `use_clipped_model_output`,
    or its `thresholding` with `sample_max_value` 1. Each generator draws the sampler's noise for
    its own equal share of the batch.
    """
    alpha_bars = [*diffusion.schedule.alpha_bar[list(timesteps)].tolist(), 1.0]
    diffusion = Diffusion(diffusion.config, diffusion.schedule.to(xT.device))
    xt, x0_last = xT, torch.zeros_like(xT)
    for k, timestep in enumerate(timesteps):
        t = torch.full((len(xt),), timestep, dtype=torch.long, device=xt.device)
        x0, _ = diffusion.x0_eps(xt, t, denoiser(xt, t))
        x0 = x0.clamp(-1.0, 1.0) if clip_x0 else x0
        w = rule(alpha_bars, k)
        xt = w.xt * xt + w.x0 * x0 + w.x0_last * x0_last
        if w.noise > 0.0:
            xt = xt + w.noise * _draw_noise(xt, generators)
        x0_last = x0
    return xt


def sample(
    diffusion: Diffusion, denoiser: Denoiser, xT: Tensor, *generators: torch.Generator
) -> Tensor:
    """Return images (B, C, H, W) in [-1, 1] from noise xT, by the configured sampler and steps.

    Of a process of latents they are latents, which no step clips. Each generator draws the
    sampler's noise for its own equal share of the batch.
    """
    rule, clips = SAMPLERS[diffusion.config.sampler], diffusion.codec is None
    timesteps = sampling_timesteps(diffusion.config)
    return run_sampler(diffusion, rule, denoiser, xT, timesteps, generators, clips)


def sampling_timesteps(config: DiffusionConfig) -> list[int]:
    """Return the timesteps at which images are drawn, descending."""
    return timestep_grid(config.num_timesteps, config.sample_steps, power=GRID_POWER)


def check_guided(diffusion: Diffusion, interval: tuple[float, float]) -> None:
    """Raise ConfigError if images would be drawn without a step at a noise level inside."""
    steps, (lowest, highest) = sampling_timesteps(diffusion.config), interval
    guided = diffusion.schedule.timesteps_between(lowest, highest)
    levels = diffusion.schedule.levels[steps]
    require(
        any(t in guided for t in steps),
        "an eval.guidance_interval with a step of sampling inside",
        f"[{lowest:g}, {highest:g}]",
        f"its ends are noise levels sigma, not timesteps, and steps lie at {levels.min():.3g} to "
        f"{levels.max():.3g}",
    )
