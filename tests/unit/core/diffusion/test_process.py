"""The forward process: against diffusers, there and back, and where training timesteps fall."""

import math

import pytest
import torch
from diffusers import DDPMScheduler

from spire_core.config.diffusion import (
    MAX_LINEAR_TIMESTEPS,
    PREDICTIONS,
    SCHEDULES,
    DiffusionConfig,
)
from spire_core.diffusion.process import Diffusion, make_schedule, sample_timesteps
from spire_core.errors import ConfigError

DIFFUSERS_NAMES = {"linear": "linear", "cosine": "squaredcos_cap_v2"}


def process(schedule: str, prediction: str = "v") -> Diffusion:
    return Diffusion.of(DiffusionConfig(schedule=schedule, prediction=prediction))


def ddpm_scheduler(schedule: str, num_timesteps: int = 1000) -> DDPMScheduler:
    return DDPMScheduler(num_timesteps, beta_schedule=DIFFUSERS_NAMES[schedule])


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Images, noise, and timesteps that include the first and the last."""
    generator = torch.Generator().manual_seed(0)
    x0 = torch.rand(8, 3, 4, 4, generator=generator) * 2 - 1
    eps = torch.randn(x0.shape, generator=generator)
    return x0, eps, torch.tensor([0, 1, 10, 250, 500, 750, 990, 999])


@pytest.mark.parametrize("num_timesteps", [10, 4000])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_alpha_bar_is_that_of_diffusers(schedule, num_timesteps):
    ours = make_schedule(schedule, num_timesteps).alpha_bar
    theirs = ddpm_scheduler(schedule, num_timesteps).alphas_cumprod
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=0.0)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_q_sample_and_v_are_those_of_diffusers(schedule, batch):
    x0, eps, t = batch
    ours, theirs = process(schedule), ddpm_scheduler(schedule)
    xt, v = ours.q_sample(x0, t, eps), ours.target(x0, t, eps)
    torch.testing.assert_close(xt, theirs.add_noise(x0, eps, t), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(v, theirs.get_velocity(x0, eps, t), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_perfect_output_gives_x0_and_eps_back(schedule, prediction, batch):
    x0, eps, t = batch
    ours = process(schedule, prediction)
    output = ours.target(x0, t, eps)
    x0_back, eps_back = ours.x0_eps(ours.q_sample(x0, t, eps), t, output)
    # From eps, x0 is a difference divided by sqrt(alpha_bar): so is its rounding error.
    scale = ours.schedule.alpha_bar[t].rsqrt() if prediction == "eps" else torch.ones(len(t))
    error = (x0_back - x0).abs().amax(dim=(1, 2, 3))
    assert (error < 1e-6 * scale).all()
    # From x0, eps is a difference divided by sqrt(1 - alpha_bar).
    noise = (1 - ours.schedule.alpha_bar[t]).rsqrt()
    scale = noise if prediction == "x0" else torch.ones(len(t))
    error = (eps_back - eps).abs().amax(dim=(1, 2, 3))
    assert (error < 4e-6 * scale).all()


@pytest.mark.parametrize("bounds", [(0.0, math.inf), (0.2, 5.0), (0.0, 1.0), (1e9, 1e10)])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_timesteps_between_noise_levels(schedule, bounds):
    left = ddpm_scheduler(schedule).alphas_cumprod
    sigmas = ((1 - left) / left).sqrt()
    inside = [t for t, sigma in enumerate(sigmas.tolist()) if bounds[0] <= sigma <= bounds[1]]
    found = process(schedule).guided_timesteps(bounds)
    assert found is not None
    assert list(found) == inside
    assert process(schedule).guided_timesteps(None) is None


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_the_loss_is_the_error_of_each_example(prediction, batch):
    x0, eps, t = batch
    ours = process("cosine", prediction)
    target = ours.target(x0, t, eps)
    off = torch.arange(8.0)[:, None, None, None]
    loss = ours.loss(lambda xt, t: target + off, x0, t, eps)
    torch.testing.assert_close(loss, torch.arange(8.0).square(), rtol=1e-5, atol=0.0)


def test_timesteps_are_stratified():
    t = sample_timesteps(50, 1000, 1.0, torch.Generator().manual_seed(0))
    assert t.dtype == torch.long
    assert torch.equal(t // 20, torch.arange(50))  # one in each fiftieth of 0..999


def test_each_timestep_is_equally_likely():
    generator = torch.Generator().manual_seed(0)
    t = torch.cat([sample_timesteps(7, 10, 1.0, generator) for _ in range(4000)])
    share = torch.bincount(t, minlength=10) / len(t)
    assert share.shape == (10,)
    # Independent draws have a standard deviation of 0.0018 here, stratified ones less.
    torch.testing.assert_close(share, torch.full((10,), 0.1), rtol=0.0, atol=0.006)


@pytest.mark.parametrize("t_power", [0.25, 0.5, 1.0, 2.0])
def test_t_power_moves_the_mean_timestep(t_power):
    t = sample_timesteps(100_000, 1000, t_power, torch.Generator().manual_seed(0))
    assert t.min() >= 0
    assert t.max() == 999
    # E[u ** p] = 1 / (1 + p), and the floor takes half a timestep.
    assert t.double().mean().item() == pytest.approx(1000 / (1 + t_power) - 0.5, abs=0.05)


def test_the_longest_linear_schedule_ends_in_a_normal_number() -> None:
    alpha_bar = make_schedule("linear", MAX_LINEAR_TIMESTEPS).alpha_bar
    smallest = torch.finfo(torch.float32).tiny
    assert alpha_bar[-1] > smallest
    betas = torch.linspace(1e-4, 0.02, MAX_LINEAR_TIMESTEPS + 1)
    assert torch.cumprod(1.0 - betas, dim=0)[-1] <= smallest
    with pytest.raises(ConfigError, match="at most 8632 "):
        DiffusionConfig("linear", MAX_LINEAR_TIMESTEPS + 1)
