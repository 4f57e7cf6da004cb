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
    require(
        schedule != "linear" or num_timesteps <= MAX_LINEAR_TIMESTEPS,
        "a schedule that leaves something of the image at its last timestep",
        f"{schedule} with diffusion.num_timesteps={num_timesteps}",
        f"choose at most {MAX_LINEAR_TIMESTEPS}, or cosine",
    )


@dataclass(frozen=True)
class DiffusionConfig:
    """The diffusion process, the timesteps it is trained on, and how images are drawn from it.

    Training draws t = floor(u ** t_power * num_timesteps) with u uniform in [0, 1): `t_power` 1 is
    uniform, below 1 prefers noisy images. With `model.backbone` schedule, number of timesteps and
    prediction are the folder's.
    """

    schedule: Annotated[str, Choice(*SCHEDULES)] = "cosine"
    num_timesteps: Annotated[int, Range(2, 100_000, advice="1000 is the usual number")] = 1000
    prediction: Annotated[str, Choice(*PREDICTIONS)] = "v"
    t_power: Annotated[float, Range(above=0, advice="1 trains on all timesteps alike")] = 1.0
    sampler: Annotated[str, Choice(*SAMPLER_NAMES)] = "dpmpp"
    sample_steps: int = 12

    def __post_init__(self) -> None:
        check_fields(self, "diffusion")
        check_timesteps(self.schedule, self.num_timesteps)
        require(
            1 <= self.sample_steps <= self.num_timesteps,
            f"diffusion.sample_steps in 1..{self.num_timesteps}",
            self.sample_steps,
            "there is one step per diffusion.num_timesteps at most",
        )
