"""The reverse process: DDPM, DDIM and DPM-Solver++(2M) as one loop that differs in a few weights.

Every step of all three is a weighted sum,

    xt <- w.xt * xt + w.x0 * x0 + w.x0_last * x0_last + w.noise * noise,

with x0 what the network now takes the image to be and x0_last what it took it to be a step before.
A sampler is the rule that gives the weights, in double precision, from alpha_bar at the timesteps.

Shapes: B batch, C image channels, H and W image sides, T timesteps of the process, N steps taken.
Sources: Ho et al. 2020 (DDPM); Song et al. 2021 (DDIM); Lu et al. 2022 (DPM-Solver++, 2211.01095).
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from spire_core.config.diffusion import DiffusionConfig
from spire_core.diffusion.process import Denoiser, NoiseSchedule, predict_x0_eps
from spire_core.errors import ConfigError


class StepWeights(NamedTuple):
    """What one step of a sampler multiplies its four ingredients with."""

    xt: float
    x0: float
    x0_last: float = 0.0
    noise: float = 0.0


WeightRule = Callable[[Sequence[float], int], StepWeights]
"""The weights of step k, given alpha_bar at the N timesteps followed by 1 (the image itself)."""


def ddim_weights(alpha_bars: Sequence[float], k: int, eta: float) -> StepWeights:
    """Return the weights of DDIM's step k (Song et al. 2021, eq. 12 and 16), eta in [0, 1].

    xt <- sqrt(ab') x0 + sqrt(1 - ab' - s^2) eps + s noise, where ab' is alpha_bar one step further
    and s^2 = eta^2 (1 - ab') / (1 - ab) (1 - ab / ab'). Put in is eps = (xt - sqrt(ab) x0) /
    sqrt(1 - ab), so that a clipped x0 comes with the eps that belongs to it.
    """
    ab, ab_next = alpha_bars[k], alpha_bars[k + 1]
    s = eta * math.sqrt((1 - ab_next) / (1 - ab) * (1 - ab / ab_next))
    xt = math.sqrt((1 - ab_next - s**2) / (1 - ab))
    return StepWeights(xt=xt, x0=math.sqrt(ab_next) - math.sqrt(ab) * xt, noise=s)


def dpmpp_weights(alpha_bars: Sequence[float], k: int) -> StepWeights:
    """Return the weights of DPM-Solver++(2M)'s step k (Lu et al. 2022, algorithm 2).

    xt <- sigma'/sigma xt - alpha' (e^-h - 1) ((1 + 1/(2r)) x0 - 1/(2r) x0_last), where h is the
    growth of log(alpha / sigma) in this step, r h that in the last step, alpha = sqrt(ab) and
    sigma = sqrt(1 - ab). The first step has no x0_last and the final one an infinite h: both are
    of first order, which is DDIM (so does diffusers' default, `final_sigmas_type="zero"`).
    """
    first_order = ddim_weights(alpha_bars, k, eta=0.0)
    if k == 0 or k == len(alpha_bars) - 2:
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


def timestep_grid(
    num_timesteps: int, num_steps: int, t_start: float = 0.985, power: float = 1.0
) -> list[int]:
    """Return N different timesteps, descending from t_start * (T - 1); N = T gives T-1, ..., 0.

    The k-th from below lies at about (k / N) ** power of the way: power 1 is even, above 1 spends
    more of the steps on the nearly clean images where fine detail is decided. The start lies a
    little below T - 1, where the cosine schedule is pure noise and an error of a network that
    predicts eps is multiplied by 1 / sqrt(alpha_bar): 2e4 at T - 1, 43 at 0.985 T. It moves up as
    far as N different timesteps take. From the last one the samplers go to the image in one step.
    """
    if not 1 <= num_steps <= num_timesteps:
        raise ConfigError(
            f"expected 1..{num_timesteps} sampling steps, got {num_steps}: "
            "there is one step per timestep at most"
        )
    count = max(round(t_start * (num_timesteps - 1)) + 1, num_steps)
    ascending = [round(count * (k / num_steps) ** power) - 1 for k in range(1, num_steps + 1)]
    for k in range(num_steps):  # keep them different, where the power crowds them at the low end
        ascending[k] = max(ascending[k], ascending[k - 1] + 1 if k else 0)
    return ascending[::-1]


def _draw_noise(xt: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
    """Return standard normal noise like xt, drawn on the CPU so that every device gets the same.

    Each generator draws for an equal part of the batch.
    """
    if not generators:
        raise ConfigError(
            "expected a generator for a sampler that adds noise, got None: pass one or set eta=0"
        )
    shape = (len(xt) // len(generators), *xt.shape[1:])
    parts = [torch.randn(shape, generator=g, dtype=torch.float32) for g in generators]
    return torch.cat(parts).to(xt)


@torch.no_grad()
def _denoise(
    rule: WeightRule,
    schedule: NoiseSchedule,
    prediction: str,
    denoiser: Denoiser,
    xT: Tensor,
    timesteps: Sequence[int],
    generators: Sequence[torch.Generator],
    clip_x0: bool,
) -> Tensor:
    """Return the images (B, C, H, W) at the end of the loop that all samplers share."""
    alpha_bars = [*schedule.alpha_bar[list(timesteps)].tolist(), 1.0]
    schedule = schedule.to(xT.device)
    xt, x0_last = xT, torch.zeros_like(xT)
    for k, timestep in enumerate(timesteps):
        t = torch.full((len(xt),), timestep, dtype=torch.long, device=xt.device)
        x0, _ = predict_x0_eps(schedule, prediction, xt, t, denoiser(xt, t))
        x0 = x0.clamp(-1.0, 1.0) if clip_x0 else x0
        w = rule(alpha_bars, k)
        xt = w.xt * xt + w.x0 * x0 + w.x0_last * x0_last
        if w.noise > 0.0:
            xt = xt + w.noise * _draw_noise(xt, generators)
        x0_last = x0
    return xt


def sample_ddpm(
    schedule: NoiseSchedule,
    prediction: str,
    denoiser: Denoiser,
    xT: Tensor,
    timesteps: Sequence[int],
    generator: torch.Generator,
    clip_x0: bool = True,
) -> Tensor:
    """Return images (B, C, H, W) by ancestral sampling from xT (Ho et al. 2020, eq. 6, 7 and 15).

    The variance is the posterior's (diffusers' `fixed_small`). That is DDIM with eta 1, also
    between timesteps that are not neighbours (Song et al. 2021, sec. 4.1). `clip_x0` clamps x0 to
    [-1, 1].
    """
    rule = SAMPLERS["ddpm"]
    return _denoise(rule, schedule, prediction, denoiser, xT, timesteps, [generator], clip_x0)


def sample_ddim(
    schedule: NoiseSchedule,
    prediction: str,
    denoiser: Denoiser,
    xT: Tensor,
    timesteps: Sequence[int],
    eta: float = 0.0,
    generator: torch.Generator | None = None,
    clip_x0: bool = True,
) -> Tensor:
    """Return images (B, C, H, W) by DDIM from xT (Song et al. 2021, eq. 12 and 16).

    eta in [0, 1] is how much of DDPM's noise is added; above 0 a generator is needed. `clip_x0`
    clamps x0 to [-1, 1] (diffusers' `clip_sample` with `use_clipped_model_output`).
    """
    rule, streams = partial(ddim_weights, eta=eta), [generator] if generator else []
    return _denoise(rule, schedule, prediction, denoiser, xT, timesteps, streams, clip_x0)


def sample_dpmpp(
    schedule: NoiseSchedule,
    prediction: str,
    denoiser: Denoiser,
    xT: Tensor,
    timesteps: Sequence[int],
    clip_x0: bool = True,
) -> Tensor:
    """Return images (B, C, H, W) by DPM-Solver++(2M) from xT (Lu et al. 2022, algorithm 2).

    `clip_x0` clamps x0 to [-1, 1] (diffusers' `thresholding` with `sample_max_value` 1).
    """
    rule = SAMPLERS["dpmpp"]
    return _denoise(rule, schedule, prediction, denoiser, xT, timesteps, [], clip_x0)


def sample(
    config: DiffusionConfig,
    schedule: NoiseSchedule,
    denoiser: Denoiser,
    xT: Tensor,
    *generators: torch.Generator,
) -> Tensor:
    """Return images (B, C, H, W) in [-1, 1] from noise xT, by a config's sampler and steps.

    What noise the sampler adds is drawn by each of the generators for an equal part of the batch.
    """
    timesteps = timestep_grid(schedule.num_timesteps, config.sample_steps, power=config.grid_power)
    rule = SAMPLERS[config.sampler]
    return _denoise(rule, schedule, config.prediction, denoiser, xT, timesteps, generators, True)
