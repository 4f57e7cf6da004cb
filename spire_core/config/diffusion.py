"""Settings of the diffusion process and its sampler (`diffusion.*`)."""

from dataclasses import dataclass
from typing import Annotated

from spire_core.config.checks import Choice, Range, check_fields, require

SCHEDULES = ("linear", "cosine")
PREDICTIONS = ("eps", "v", "x0")
SAMPLER_NAMES = ("ddpm", "ddim", "dpmpp")
MAX_LINEAR_TIMESTEPS = 8632  # one more, and alpha_bar ends below the normal numbers of float32


def check_timesteps(schedule: str, num_timesteps: int) -> None:
    """Raise ConfigError if nothing of the image is left at the last timestep."""
    expected = f"at most {MAX_LINEAR_TIMESTEPS} diffusion.num_timesteps with a linear schedule"
    is_met = schedule != "linear" or num_timesteps <= MAX_LINEAR_TIMESTEPS
    require(is_met, expected, num_timesteps, "lower it, or choose cosine")


@dataclass(frozen=True)
class DiffusionConfig:
    """The diffusion process, the timesteps it is trained on, and how images are drawn from it.

    Training draws t = floor(u ** t_power * num_timesteps) with u uniform in [0, 1): `t_power` 1 is
    uniform, below 1 prefers noisy images. With `model.backbone` schedule, number of timesteps and
    prediction are the folder's.
    """

    schedule: Annotated[str, Choice(*SCHEDULES)] = "cosine"
    num_timesteps: Annotated[int, Range(2, 100_000)] = 1000
    prediction: Annotated[str, Choice(*PREDICTIONS)] = "v"
    t_power: Annotated[float, Range(above=0)] = 1.0
    sampler: Annotated[str, Choice(*SAMPLER_NAMES)] = "dpmpp"
    sample_steps: Annotated[int, Range(1)] = 12

    def __post_init__(self) -> None:
        check_fields(self, "diffusion")
        check_timesteps(self.schedule, self.num_timesteps)
        expected = f"at most diffusion.num_timesteps ({self.num_timesteps}) sample_steps"
        is_met = self.sample_steps <= self.num_timesteps
        require(is_met, expected, self.sample_steps, "lower diffusion.sample_steps")
