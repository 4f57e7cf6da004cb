"""What is learnt, drawn and scored, as records of settings; their ranges and what they decide.

Nothing here imports torch: a command reads and checks its settings in a fraction of the time.
"""

import math
from dataclasses import dataclass

from spire_core.errors import ConfigError

MAX_LEVELS = 10  # of resolution: images of 1024 pixels
SCHEDULES = ("linear", "cosine")
PREDICTIONS = ("eps", "v")
SAMPLER_NAMES = ("ddpm", "ddim", "dpmpp")
MAX_LINEAR_TIMESTEPS = 8632  # one more, and alpha_bar ends below the normal numbers of float32


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raise ConfigError unless a setting is one of the choices."""
    if value not in choices:
        raise ConfigError(
            f"expected {name} to be one of {', '.join(choices)}, got {value!r}: choose one"
        )


def check_timesteps(schedule: str, num_timesteps: int) -> None:
    """Raise ConfigError if nothing of the image is left at the last timestep."""
    if schedule == "linear" and num_timesteps > MAX_LINEAR_TIMESTEPS:
        raise ConfigError(
            f"expected a schedule that leaves something of the image at its last timestep, got "
            f"{schedule} with diffusion.num_timesteps={num_timesteps}: choose at most "
            f"{MAX_LINEAR_TIMESTEPS}, or cosine"
        )


@dataclass(frozen=True)
class ModelConfig:
    """Sizes of the U-Net and of the client embedding.

    `width` times each entry of `multipliers` gives the channels of one resolution level;
    `attention` names the levels (0 = finest) that attend; `space_to_depth` folds squares of that
    side into channels at the door, which makes the network that much cheaper per image.
    """

    d_emb: int = 64
    width: int = 32
    multipliers: tuple[int, ...] = (1, 2)
    num_blocks: int = 1
    attention: tuple[int, ...] = (1,)
    cond_dim: int = 128
    space_to_depth: int = 2
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.d_emb < 1:
            raise ConfigError(
                f"expected model.d_emb of at least 1, got {self.d_emb}: "
                "choose a method without an embedding instead of an empty one"
            )
        if self.width < 8 or self.width % 8:
            raise ConfigError(
                f"expected model.width as a multiple of 8, got {self.width}: "
                "channels are normalised in groups"
            )
        if not 1 <= len(self.multipliers) <= MAX_LEVELS or min(self.multipliers) < 1:
            raise ConfigError(
                f"expected 1..{MAX_LEVELS} model.multipliers of at least 1, got "
                f"{self.multipliers}: see the presets for sizes that work"
            )
        if min(self.num_blocks, self.cond_dim, self.space_to_depth) < 1:
            raise ConfigError(
                "expected model.num_blocks, model.cond_dim and model.space_to_depth of at least 1, "
                f"got {self.num_blocks}, {self.cond_dim} and {self.space_to_depth}: raise them"
            )
        if any(level not in range(len(self.multipliers)) for level in self.attention):
            raise ConfigError(
                f"expected levels 0..{len(self.multipliers) - 1} in model.attention, got "
                f"{self.attention}: it names resolution levels, 0 being the finest"
            )
        if not 0.0 <= self.dropout < 1.0:
            raise ConfigError(
                f"expected model.dropout in [0, 1), got {self.dropout}: 0 turns it off"
            )

    def check_image_size(self, image_size: int) -> None:
        """Raise ConfigError if images of this side cannot be halved at every level."""
        step = self.space_to_depth * 2 ** (len(self.multipliers) - 1)
        if image_size % step:
            raise ConfigError(
                f"expected data.image_size divisible by {step} for this U-Net, got {image_size}: "
                "choose another image size or fewer model.multipliers"
            )


def num_norm_groups(channels: int) -> int:
    """Return into how many groups channels are normalised: 32 or a half, a quarter ... of that.

    A group is of 3 channels at least, or of all: one alone would lose its mean and its scale, and
    with them the brightness and the contrast of an image.
    """
    groups = math.gcd(32, channels)
    while groups > 1 and channels < 3 * groups:
        groups //= 2
    return groups


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


@dataclass(frozen=True)
class EvalConfig:
    """What is measured, how often, and on how many images.

    `extractor` "auto" takes the small classifier of the data set, or Inception where there is none.
    `num_images`: images drawn for each client. `every`: rounds between two evaluations of
    pre-training, 0 for the first and the last alone. `num_clients`: how many pre-training clients
    are looked at, None for all of them (for 100, where there are more than 1000); in a population
    of more than 1000 they are the first to take part. `guidance` scales the difference between the
    personal and the impersonal prediction (1 = off).
    """

    extractor: str = "auto"
    extractor_weights: str | None = None
    num_images: int = 128
    every: int = 100
    num_clients: int | None = None
    kid_subset_size: int = 1000
    kid_num_subsets: int = 20
    guidance: float = 1.0
    num_loss_images: int = 128
    grid_images: int = 16
    batch_size: int = 128

    def __post_init__(self) -> None:
        for name in ("num_images", "kid_subset_size", "num_loss_images", "batch_size"):
            if getattr(self, name) < 2:
                raise ConfigError(
                    f"expected eval.{name} of at least 2, got {getattr(self, name)}: "
                    "KID compares sets of images"
                )
        if self.every < 0 or self.grid_images < 1 or self.kid_num_subsets < 1:
            raise ConfigError(
                "expected eval.every of at least 0, eval.grid_images and eval.kid_num_subsets of "
                f"at least 1, got {self.every}, {self.grid_images} and {self.kid_num_subsets}: "
                "raise them"
            )
        if self.guidance < 0:
            raise ConfigError(
                f"expected eval.guidance of at least 0, got {self.guidance}: 1 turns it off"
            )

    @property
    def clients_per_batch(self) -> int:
        """How many clients' images are drawn as one batch."""
        return max(1, self.batch_size // self.num_images)
