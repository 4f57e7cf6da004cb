"""Settings of the network (`model.*`)."""

import math
from dataclasses import dataclass

from spire_core.errors import ConfigError

MAX_LEVELS = 10  # of resolution: images of 1024 pixels


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
