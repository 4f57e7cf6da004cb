"""Settings of the diffusion process and its sampler (`diffusion.*`)."""

import math
from dataclasses import dataclass

from spire_core.config.checks import check_choice
from spire_core.errors import ConfigError

SCHEDULES = ("linear", "cosine")
PREDICTIONS = ("eps", "v")
SAMPLER_NAMES = ("ddpm", "ddim", "dpmpp")
MAX_LINEAR_TIMESTEPS = 8632  # one more, and alpha_bar ends below the normal numbers of float32


def check_timesteps(schedule: str, num_timesteps: int) -> None:
    """Raise ConfigError if nothing of the image is left at the last timestep."""
    if schedule == "linear" and num_timesteps > MAX_LINEAR_TIMESTEPS:
        raise ConfigError(
            f"expected a schedule that leaves something of the image at its last timestep, got "
            f"{schedule} with diffusion.num_timesteps={num_timesteps}: choose at most "
            f"{MAX_LINEAR_TIMESTEPS}, or cosine"
        )


@dataclass(frozen=True)
class DiffusionConfig:
    """The diffusion process, the timesteps it is trained on, and how images are drawn from it.

    Training draws t = floor(u ** t_power * num_timesteps) with u uniform in [0, 1): `t_power` 1 is
    uniform, below 1 prefers noisy images. `grid_power` spaces the sampling steps (`timestep_grid`).
    """

    schedule: str = "cosine"
    num_timesteps: int = 1000
    prediction: str = "v"
    t_power: float = 1.0
    sampler: str = "dpmpp"
    sample_steps: int = 12
    grid_power: float = 1.5

    def __post_init__(self) -> None:
        check_choice("diffusion.schedule", self.schedule, SCHEDULES)
        check_choice("diffusion.prediction", self.prediction, PREDICTIONS)
        check_choice("diffusion.sampler", self.sampler, SAMPLER_NAMES)
        if self.num_timesteps < 2:
            raise ConfigError(
                f"expected diffusion.num_timesteps of at least 2, got {self.num_timesteps}: "
                "1000 is the usual number"
            )
        check_timesteps(self.schedule, self.num_timesteps)
        if not 0.0 < self.t_power < math.inf:
            raise ConfigError(
                f"expected diffusion.t_power above 0, got {self.t_power}: "
                "1 trains on all timesteps alike"
            )
        if not 1.0 <= self.grid_power <= 3.0:
            raise ConfigError(
                f"expected diffusion.grid_power in 1..3, got {self.grid_power}: "
                "1 spaces the sampling steps evenly"
            )
        if not 1 <= self.sample_steps <= self.num_timesteps:
            raise ConfigError(
                f"expected diffusion.sample_steps in 1..{self.num_timesteps}, got "
                f"{self.sample_steps}: there is one step per diffusion.num_timesteps at most"
            )
