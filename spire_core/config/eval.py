"""Settings of evaluations (`eval.*`)."""

from dataclasses import dataclass

from spire_core.errors import ConfigError


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
