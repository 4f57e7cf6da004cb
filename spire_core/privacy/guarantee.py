"""The promise to a new client: what its published part may tell about any one of its images."""

import dataclasses
import functools
from dataclasses import dataclass
from typing import Any

from spire_core.config.checks import require
from spire_core.config.privacy import PrivateAdaptConfig
from spire_core.privacy.accounting import check_noise, noise_for

UNIT = "one image"


@dataclass(frozen=True)
class Guarantee:
    """(epsilon, delta)-differential privacy of what one client publishes, and how it comes about.

    `noise_multiplier`: sigma. `num_steps` noisy sums are published, each of images that take part
    with the chance `sampling_rate`. `num_images`: n, which is public. `is_simulated`: the noise key
    was given, so that the numbers hold only for those who do not know it.
    """

    epsilon: float
    delta: float
    mechanism: str
    noise_multiplier: float
    num_steps: int
    sampling_rate: float
    num_images: int
    is_simulated: bool

    @property
    def batch(self) -> float:
        """The expected number of images of a step, by which noisy sums are divided."""
        return self.sampling_rate * self.num_images

    @property
    def source(self) -> str:
        """Where the noise comes from: `secret`, or `simulated` from a given key."""
        return "simulated" if self.is_simulated else "secret"

    @property
    def sentence(self) -> str:
        """The guarantee in words."""
        how = f"{self.num_steps} noisy sums of {self.batch:g} of {self.num_images} images"
        if self.mechanism == "one_release":
            how = f"the noisy mean of the embeddings of {self.num_images} images"
        return (
            f"private: epsilon {self.epsilon:.3g} at delta {self.delta:.3g} for {UNIT} "
            f"({self.mechanism}: {how}, noise {self.noise_multiplier:.3g} clip norms, "
            f"{self.source} noise key)"
        )

    def as_values(self) -> dict[str, Any]:
        """Return the guarantee as plain values."""
        return {"unit": UNIT, "dp": self.source, **dataclasses.asdict(self)}

    def as_texts(self) -> dict[str, str]:
        """Return the guarantee as named texts, for the header of a file."""
        return {f"privacy.{name}": str(value) for name, value in self.as_values().items()}


@functools.lru_cache(maxsize=256)  # a search takes seconds, and clients have few different sizes
def guarantee_of(
    settings: PrivateAdaptConfig, num_images: int, is_simulated: bool = False
) -> Guarantee | None:
    """Return the guarantee to a client of so many training images; None if there is no budget.

    Raises ConfigError if delta would allow to publish an image, if the budget needs too much noise,
    or if steps sample images and dp-accounting is missing.
    """
    if settings.epsilon is None:
        return None
    delta = 0.1 / num_images if settings.delta is None else settings.delta
    require(
        delta < 1 / num_images,
        f"privacy.adapt.delta below 1/{num_images} for a client of {num_images} images",
        f"{delta:g}",
        "at that delta one image may be published as it is, so leave it null for 1/(10 n)",
    )
    num_steps = 1 if settings.mechanism == "one_release" else settings.steps
    rate = settings.sampling_rate(num_images)
    noise = noise_for(settings.epsilon, delta, num_steps, rate)
    check_noise(noise, "privacy.adapt")
    how = (settings.mechanism, noise, num_steps, rate, num_images)
    return Guarantee(settings.epsilon, delta, *how, is_simulated)
