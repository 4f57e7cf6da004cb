"""The samplers: against diffusers' schedulers, and on data whose distribution is known."""

from functools import partial

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler
from torch import Tensor

from spire_core.config.diffusion import PREDICTIONS, SAMPLER_NAMES, SCHEDULES, DiffusionConfig
from spire_core.diffusion.process import Denoiser, Diffusion, make_schedule
from spire_core.diffusion.samplers import (
    SAMPLERS,
    ddim_weights,
    run_sampler,
    sample,
    timestep_grid,
)

DIFFUSERS_NAMES = {
    "linear": "linear",
    "cosine": "squaredcos_cap_v2",
    "eps": "epsilon",
    "v": "v_prediction",
    "x0": "sample",
}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def diffusion(schedule: str, prediction: str, **settings) -> Diffusion:
    return Diffusion.of(DiffusionConfig(schedule=schedule, prediction=prediction, **settings))


def start_noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator(1))


def gaussian_denoiser(schedule: str, prediction: str, mean: Tensor, std: Tensor) -> Denoiser:
    """Return the best possible network for pixels that are N(mean, std^2), both (C, H, W)."""
    alpha_bars = make_schedule(schedule, 1000).alpha_bar

    def denoiser(xt: Tensor, t: Tensor) -> Tensor:
        ab = alpha_bars[t][:, None, None, None]
        # xt ~ N(sqrt(ab) mean, ab std^2 + 1 - ab), and eps is what correlates with it as below.
        z = (xt - ab.sqrt() * mean) / (ab * std**2 + 1 - ab)
        eps = (1 - ab).sqrt() * z
        x0 = mean + ab.sqrt() * std**2 * z
        v = ab.sqrt() * eps - (1 - ab).sqrt() * x0
        return {"eps": eps, "v": v, "x0": x0}[prediction]

    return denoiser


def network() -> Denoiser:
    """Return a small convolution with fixed weights, not linear and not special in any way."""
    weight = torch.randn(3, 3, 3, 3, generator=generator(2)) / 5

    def denoiser(xt: Tensor, t: Tensor) -> Tensor:
        h = torch.nn.functional.conv2d(xt, weight, padding=1)
        return torch.tanh(h + t[:, None, None, None] / 1000)

    return denoiser


def diffusers_loop(scheduler, denoiser: Denoiser, xT: Tensor, **step_arguments) -> Tensor:
    xt = xT
    for t in scheduler.timesteps:
        output = denoiser(xt, t.long().repeat(len(xt)))
        xt = scheduler.step(output, t, xt, return_dict=False, **step_arguments)[0]
    return xt


def diffusers_arguments(schedule: str, prediction: str) -> dict[str, str]:
    return {
        "beta_schedule": DIFFUSERS_NAMES[schedule],
        "prediction_type": DIFFUSERS_NAMES[prediction],
    }


def assert_same_images(ours: Tensor, theirs: Tensor, prediction: str) -> None:
    """Compare to float32 rounding, relative to the largest value (up to 800 from eps unclipped).

    Diffusers takes its weights in float32, where beta = 1 - alpha_bar / alpha_bar' alone is good to
    5 digits only. An output eps is divided by sqrt(alpha_bar), 7e-3 at the first step of `linear`,
    and its rounding error with it.
    """
    tolerance = {"v": 1e-5, "eps": 2e-5, "x0": 1e-5}[prediction] * float(theirs.abs().max())
    torch.testing.assert_close(ours, theirs, rtol=0.0, atol=tolerance)


@pytest.fixture(params=[(s, p) for s in SCHEDULES for p in PREDICTIONS], ids="-".join)
def process(request) -> tuple[str, str]:
    return request.param


@pytest.fixture
def xT() -> Tensor:
    return start_noise(4, 3, 8, 8)


@pytest.mark.parametrize(("num_steps", "clip_x0"), [(5, False), (30, True)])
def test_ddpm_is_that_of_diffusers(process, xT, num_steps, clip_x0):
    timesteps = timestep_grid(1000, num_steps)
    scheduler = DDPMScheduler(**diffusers_arguments(*process), clip_sample=clip_x0)
    scheduler.set_timesteps(timesteps=timesteps)
    theirs = diffusers_loop(scheduler, network(), xT, generator=generator())
    rule, streams = SAMPLERS["ddpm"], [generator()]
    ours = run_sampler(diffusion(*process), rule, network(), xT, timesteps, streams, clip_x0)
    assert_same_images(ours, theirs, process[1])


@pytest.mark.parametrize(("num_steps", "eta", "clip_x0"), [(5, 0.0, False), (30, 0.5, True)])
def test_ddim_is_that_of_diffusers(process, xT, num_steps, eta, clip_x0):
    scheduler = DDIMScheduler(**diffusers_arguments(*process), clip_sample=clip_x0)
    scheduler.set_timesteps(num_steps)  # takes no timesteps of ours, so ours takes its own
    theirs = diffusers_loop(
        scheduler, network(), xT, eta=eta, generator=generator(), use_clipped_model_output=True
    )
    timesteps = scheduler.timesteps.tolist()
    rule, streams = partial(ddim_weights, eta=eta), [generator()]
    ours = run_sampler(diffusion(*process), rule, network(), xT, timesteps, streams, clip_x0)
    assert_same_images(ours, theirs, process[1])


@pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
)  # diffusers calls np.array on a tensor
@pytest.mark.parametrize(("num_steps", "clip_x0"), [(5, False), (30, True)])
def test_dpmpp_is_that_of_diffusers(process, xT, num_steps, clip_x0):
    timesteps = timestep_grid(1000, num_steps)
    scheduler = DPMSolverMultistepScheduler(
        **diffusers_arguments(*process), thresholding=clip_x0, sample_max_value=1.0
    )
    scheduler.set_timesteps(timesteps=timesteps)
    theirs = diffusers_loop(scheduler, network(), xT)
    rule = SAMPLERS["dpmpp"]
    ours = run_sampler(diffusion(*process), rule, network(), xT, timesteps, clip_x0=clip_x0)
    assert_same_images(ours, theirs, process[1])


@pytest.mark.parametrize("sampler", ["ddim", "dpmpp"])
def test_the_ode_samplers_return_the_gaussian_that_the_data_is(process, sampler):
    std = 0.5
    # All that they do to xT is affine here: 0 goes to the mean, and 1 to mean + std.
    denoiser = gaussian_denoiser(*process, torch.tensor(0.3), torch.tensor(std))
    xT = torch.tensor([0.0, 1.0])[:, None, None, None]
    timesteps = timestep_grid(1000, 1000)
    rule = SAMPLERS[sampler]
    images = run_sampler(diffusion(*process), rule, denoiser, xT, timesteps, clip_x0=False)
    at_0, at_1 = images.flatten()
    assert at_0.item() == pytest.approx(0.3, abs=0.01)
    assert (at_1 - at_0).item() == pytest.approx(std, rel=0.02)


def test_ddpm_returns_the_gaussian_that_the_data_is():
    process = ("cosine", "v")
    denoiser = gaussian_denoiser(*process, torch.tensor(0.3), torch.tensor(0.5))
    xT = start_noise(20_000, 1, 1, 1)
    timesteps = timestep_grid(1000, 1000)
    rule, streams = SAMPLERS["ddpm"], [generator()]
    x0 = run_sampler(diffusion(*process), rule, denoiser, xT, timesteps, streams, clip_x0=False)
    # 20,000 draws give the mean to 0.0035 and the standard deviation to 0.5 %; the error of the
    # steps themselves, which shrinks as 1 / N, is 0.6 % of the standard deviation.
    assert x0.mean().item() == pytest.approx(0.3, abs=0.01)
    assert x0.std().item() == pytest.approx(0.5, rel=0.02)


@pytest.mark.parametrize("name", SAMPLERS)
def test_one_step_is_the_guess_of_x0(name):
    denoiser = gaussian_denoiser("cosine", "eps", torch.tensor(2.0), torch.tensor(1e-6))
    chosen = diffusion("cosine", "eps", sampler=name, sample_steps=1)
    x0 = sample(chosen, denoiser, start_noise(2, 1, 2, 2), generator())
    assert torch.equal(x0, torch.ones(2, 1, 2, 2))  # the data is 2 everywhere, which is clipped


def test_a_config_chooses_sampler_and_steps(xT):
    assert tuple(SAMPLERS) == SAMPLER_NAMES
    timesteps = timestep_grid(1000, 7, power=1.5)
    for name, rule in SAMPLERS.items():
        chosen = diffusion("cosine", "v", sampler=name, sample_steps=7)
        images = run_sampler(chosen, rule, network(), xT, timesteps, [generator()])
        assert torch.equal(sample(chosen, network(), xT, generator()), images)
        assert images.abs().max() <= 1.0


@pytest.mark.parametrize("name", SAMPLER_NAMES)
@pytest.mark.parametrize(("num_timesteps", "num_steps"), [(4000, 2), (6000, 3)])
def test_a_step_from_next_to_nothing_has_weights(name: str, num_timesteps: int, num_steps: int):
    grid = timestep_grid(num_timesteps, num_steps, power=3.0)
    alpha_bars = [*make_schedule("linear", num_timesteps).alpha_bar[grid].tolist(), 1.0]
    weights = [SAMPLERS[name](alpha_bars, k) for k in range(num_steps)]
    assert torch.tensor(weights).isfinite().all()
    assert weights[0].xt < 1e-6 or name != "ddpm"  # the start is forgotten


@pytest.mark.parametrize("name", SAMPLER_NAMES)
def test_a_step_of_no_length_changes_nothing(name: str):
    weights = SAMPLERS[name]([0.1, 0.1, 0.5, 1.0], 0)
    assert weights.noise == weights.x0_last == 0.0
    assert (weights.xt, weights.x0) == pytest.approx((1.0, 0.0))
    after = SAMPLERS[name]([0.1, 0.1, 0.5, 1.0], 1)  # as if there had been no step before
    assert after == SAMPLERS[name]([0.1, 0.5, 1.0], 0)


@pytest.mark.parametrize("power", [1.0, 3.0])
@pytest.mark.parametrize("num_timesteps", [2, 64])
def test_the_grid_descends_without_repeating(num_timesteps, power):
    for num_steps in range(1, num_timesteps + 1):
        grid = timestep_grid(num_timesteps, num_steps, power=power)
        assert len(set(grid)) == num_steps
        assert grid == sorted(grid, reverse=True)
        assert grid[-1] >= 0
        assert grid[0] == max(round(0.985 * (num_timesteps - 1)), num_steps - 1)


def test_the_grid_by_hand():
    assert timestep_grid(1000, 4, t_start=1.0) == [999, 749, 499, 249]
    assert timestep_grid(10, 10) == list(range(9, -1, -1))
