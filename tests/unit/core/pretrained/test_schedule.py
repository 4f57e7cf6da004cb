"""The schedule of a pre-trained model, at both ends: images can be drawn along any."""

import json
from pathlib import Path

import pytest
import torch

from spire_core.config.diffusion import SAMPLER_NAMES, DiffusionConfig
from spire_core.diffusion.process import Diffusion, NoiseSchedule
from spire_core.diffusion.samplers import sample
from spire_core.errors import ConfigError
from spire_core.pretrained.folder import BackboneFolder
from spire_core.pretrained.schedule import LEAST, MOST, load_schedule

BETAS = [0.0, 0.0, 0.1, 0.1, 0.2, 0.2, 0.3, 0.3]


def schedule_of(folder: Path, **settings: object) -> torch.Tensor:
    path = folder / "scheduler"
    path.mkdir()
    kind = {"_class_name": "DDPMScheduler", "prediction_type": "epsilon"}
    (path / "scheduler_config.json").write_text(json.dumps(kind | settings))
    return load_schedule(BackboneFolder(folder, "unet", "UNet2DModel")).alpha_bar


@pytest.mark.parametrize(
    ("settings", "ends"),
    [
        ({"num_train_timesteps": 8, "trained_betas": BETAS}, (MOST, MOST)),
        ({"num_train_timesteps": 4000}, (LEAST, LEAST)),
    ],
    ids=["no noise at first", "no image at last"],
)
@pytest.mark.parametrize("name", SAMPLER_NAMES)
def test_images_are_drawn_along_schedules_with_equal_steps(
    tmp_path: Path, settings: dict, ends: tuple[float, float], name: str
) -> None:
    alpha_bar = schedule_of(tmp_path, **settings)
    pair = alpha_bar[:2] if ends[0] == MOST else alpha_bar[-2:]
    assert tuple(pair.tolist()) == ends
    config = DiffusionConfig(
        num_timesteps=len(alpha_bar), sample_steps=8, sampler=name, prediction="eps"
    )
    noise = torch.Generator().manual_seed(0)
    xT = torch.randn(2, 1, 4, 4, generator=noise)
    images = sample(Diffusion(config, NoiseSchedule(alpha_bar)), lambda xt, _: xt.tanh(), xT, noise)
    assert images.isfinite().all()


def test_a_file_of_an_older_version_predicts_the_noise(tmp_path: Path) -> None:
    """As diffusers takes it; so the files of Stable Diffusion 1 are."""
    (tmp_path / "scheduler").mkdir()
    settings = {"_class_name": "PNDMScheduler", "num_train_timesteps": 8, "trained_betas": BETAS}
    (tmp_path / "scheduler" / "scheduler_config.json").write_text(json.dumps(settings))
    assert load_schedule(BackboneFolder(tmp_path, "unet", "UNet2DModel")).prediction == "eps"


def test_what_is_within_the_ends_stays_as_it_is(tmp_path: Path) -> None:
    alpha_bar = schedule_of(tmp_path, num_train_timesteps=8, trained_betas=BETAS)
    exact = torch.cumprod(1 - torch.tensor(BETAS), 0)
    assert torch.equal(alpha_bar[2:], exact[2:])


@pytest.mark.parametrize(
    ("betas", "got"),
    [
        ([0.1, float("nan"), 0.1], "others"),
        ([0.1, -0.1, 0.1], "some that rise"),
        ([0.1, 1.5, 0.1], "others"),
        ([-0.1, 0.2, 0.1], "others"),
        ([0.1, 3.0, 3.0], "others"),
    ],
)
def test_betas_that_are_no_noise_are_one_sentence(
    tmp_path: Path, betas: list[float], got: str
) -> None:
    with pytest.raises(ConfigError, match=rf"alphas_cumprod in \[0, 1\].*, got {got}: choose"):
        schedule_of(tmp_path, num_train_timesteps=3, trained_betas=betas)


@pytest.mark.parametrize("betas", ["zz", {"a": 1}, [[[1]]], [], 3])
def test_settings_that_are_no_schedule_are_one_sentence(tmp_path: Path, betas: object) -> None:
    with pytest.raises(ConfigError, match="expected a scheduler with alphas_cumprod"):
        schedule_of(tmp_path, num_train_timesteps=3, trained_betas=betas)
