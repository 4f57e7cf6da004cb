"""What is promised: to a new client about each of its images, to a run about each of its clients.

Both are (epsilon, delta)-differential privacy of noisy sums. Neighbours of a new client's images
differ by one image, which contributes zero. Those of a run's clients differ by one client that is
added or left out, with all its data and in all rounds; cohorts are drawn by chance (Poisson).

Adaptive clipping of rounds also publishes the noisy number of clients within the clip norm. Each
adds b - 1/2 with b in {0, 1}, whose noise has the standard deviation sigma_b. Both together are one
Gaussian mechanism with the multiplier z if the sum's own is (z^-2 - (2 sigma_b)^-2)^(-1/2) (Andrew
et al. 2021, theorem 1).
"""

import functools
import math
from dataclasses import asdict, dataclass
from typing import Any

from spire_core.config.checks import require
from spire_core.config.privacy import SMALLEST_CLIP, PrivateAdaptConfig, PrivateRoundsConfig
from spire_core.errors import BudgetError
from spire_core.privacy.accounting import epsilon_spent, noise_for

IMAGE_UNIT, CLIENT_UNIT = "one image", "one client"
MAX_NOISE = 1e6  # much above it whole steps of the grid are no int64
CLIP_RATE = 0.2  # of adaptive clipping, and the noise of its counts: Andrew et al. 2021, section 3
COUNT_NOISE = 1 / 20  # sigma_b over the expected cohort
NUM_COUNTS = 4  # of the images of each of several embeddings; their mean has half the noise of one


@dataclass(frozen=True, kw_only=True)
class Guarantee:
    """(epsilon, delta)-differential privacy of one `unit`, and how it comes about.

    `num_steps` noisy sums are published, each of units that take part with the chance
    `sampling_rate`, out of `num_units`, which is public. `noise_multiplier`: sigma. `is_simulated`:
    somebody may know the noise, or it is that of a larger cohort.
    """

    unit: str
    mechanism: str
    epsilon: float
    delta: float
    noise_multiplier: float
    num_steps: int
    sampling_rate: float
    num_units: int
    is_simulated: bool

    @property
    def batch(self) -> float:
        """The expected number of units in a sum, by which it is divided."""
        return self.sampling_rate * self.num_units

    @property
    def source(self) -> str:
        """Where the noise comes from: `secret`, or `simulated`."""
        return "simulated" if self.is_simulated else "secret"

    @property
    def sentence(self) -> str:
        """The guarantee in words."""
        units = f"{self.unit.removeprefix('one ')}s"
        how = f"{self.num_steps} noisy sums of {self.batch:g} of {self.num_units} {units}"
        if self.mechanism == "one_release":
            how = f"the noisy mean of the embeddings of {self.num_units} images"
        return (
            f"{'simulated' if self.is_simulated else 'private'}: epsilon {self.epsilon:.3g} "
            f"at delta {self.delta:.3g} for {self.unit} ({self.mechanism}: {how}, "
            f"noise {self.noise_multiplier:.3g} clip norms)"
        )

    def as_values(self) -> dict[str, Any]:
        """Return the guarantee as plain values."""
        return {"dp": self.source, **asdict(self)}

    def as_texts(self) -> dict[str, str]:
        """Return the guarantee as named texts, for the header of a file."""
        return {f"privacy.{name}": str(value) for name, value in self.as_values().items()}


@dataclass(frozen=True)
class PrivateRound:
    """A round's part of the promise, for its clients and its server.

    `sum_noise`: standard deviation of the noise that is added to the sum, over `clip_norm`.
    `count_noise`: that of the number of clients within the clip norm, None if it is not published.
    `expected`: clients of a cohort on average, by which sums are divided.
    """

    clip_norm: float
    sum_noise: float
    count_noise: float | None
    expected: float


@dataclass(frozen=True, kw_only=True)
class RoundsGuarantee(Guarantee):
    """The guarantee to the clients of a run, of `num_steps` rounds at most.

    The noise is that of a cohort of `noise_cohort` clients; `cohort_size` are simulated on average.
    """

    noise_cohort: int
    cohort_size: int
    clip_norm: float
    clip_quantile: float | None

    def spent(self, num_rounds: int) -> float:
        """Return the epsilon of so many rounds."""
        if num_rounds == 0:
            return 0.0
        spent = epsilon_spent(self.noise_multiplier, num_rounds, self.sampling_rate, self.delta)
        return min(spent, self.epsilon) if num_rounds <= self.num_steps else spent

    def check(self, num_releases: int) -> None:
        """Raise BudgetError if one more round would exceed the budget of the run."""
        if num_releases >= self.num_steps:
            raise BudgetError(
                f"expected at most {self.num_steps} noisy sums, which is what epsilon "
                f"{self.epsilon:g} at delta {self.delta:.3g} carries, got {num_releases} that are "
                "published and one more to come: the run stops before it"
            )

    def round(self, clip_norm: float) -> PrivateRound:
        """Return the settings of a round at a clip norm; noise is scaled to the real cohort."""
        scale, count_noise = self.cohort_size / self.noise_cohort, None
        sum_noise = self.noise_multiplier
        if self.clip_quantile is not None:
            count_noise = COUNT_NOISE * self.noise_cohort
            sum_noise = (sum_noise**-2 - (2 * count_noise) ** -2) ** -0.5
            count_noise *= scale
        return PrivateRound(clip_norm, sum_noise * scale, count_noise, self.cohort_size)

    def next_clip(self, clip_norm: float, share_within: float | None) -> float:
        """Return the clip norm after a round, of which so large a share was within it.

        C <- C exp(-0.2 (b - quantile)); Andrew et al. 2021, section 2. Never below what a setting
        may be: changes of length 0 are within any.
        """
        if self.clip_quantile is None or share_within is None:
            return clip_norm
        factor = math.exp(-CLIP_RATE * (share_within - self.clip_quantile))
        return max(SMALLEST_CLIP, clip_norm * factor)

    def tags(self) -> dict[str, str]:
        """Return the tags of a run."""
        tags = {"dp": self.source, "privacy.unit": self.unit, "privacy.mechanism": self.mechanism}
        tags["privacy.epsilon"] = f"{self.epsilon:g}"
        is_scaled = self.noise_cohort != self.cohort_size
        return tags | ({"privacy.noise_cohort": str(self.noise_cohort)} if is_scaled else {})


@functools.lru_cache(maxsize=256)  # a search takes seconds, and clients have few different sizes
def guarantee_of(
    settings: PrivateAdaptConfig, num_images: int, is_simulated: bool = False, num_embs: int = 1
) -> Guarantee | None:
    """Return the guarantee to a client of so many training images; None if there is no budget.

    The weights of several embeddings take `NUM_COUNTS` more sums. Raises ConfigError if the budget
    cannot be kept, or if steps sample images and dp-accounting is missing.
    """
    if settings.epsilon is None:
        return None
    delta = 0.1 / num_images if settings.delta is None else settings.delta
    num_steps = 1 if settings.mechanism == "one_release" else settings.steps
    num_steps += NUM_COUNTS if num_embs > 1 else 0
    rate = settings.sampling_rate(num_images)
    noise = _noise("privacy.adapt", settings.epsilon, delta, num_images, num_steps, rate)
    return Guarantee(
        unit=IMAGE_UNIT,
        mechanism=settings.mechanism,
        epsilon=settings.epsilon,
        delta=delta,
        noise_multiplier=noise,
        num_steps=num_steps,
        sampling_rate=rate,
        num_units=num_images,
        is_simulated=is_simulated,
    )


@functools.lru_cache(maxsize=64)
def rounds_guarantee(
    settings: PrivateRoundsConfig,
    num_clients: int,
    cohort_size: int,
    num_rounds: int,
    has_given_key: bool = False,
) -> RoundsGuarantee | None:
    """Return the guarantee to the clients of a run; None if there is no budget.

    Raises ConfigError if the budget cannot be kept, also with adaptive clipping, or if rounds
    sample clients and dp-accounting is missing.
    """
    if settings.epsilon is None:
        return None
    require(
        num_clients > 1 or settings.delta is not None,
        "federation.num_clients of at least 2 with privacy.rounds.epsilon",
        num_clients,
        "for one client N^-1.1 promises nothing, so raise it or give privacy.rounds.delta",
    )
    delta = num_clients**-1.1 if settings.delta is None else settings.delta
    noise_cohort = settings.noise_cohort or cohort_size
    rate = noise_cohort / num_clients
    noise = _noise("privacy.rounds", settings.epsilon, delta, num_clients, num_rounds, rate)
    most = 2 * COUNT_NOISE * noise_cohort
    require(
        settings.clip_quantile is None or noise < most,
        f"a noise multiplier below {most:.3g} with privacy.rounds.clip_quantile",
        f"{noise:.3g}",
        "the count that adapts the clip norm would take the whole budget, so raise the cohort or "
        "leave privacy.rounds.clip_quantile null",
    )
    return RoundsGuarantee(
        unit=CLIENT_UNIT,
        mechanism="noisy_rounds",
        epsilon=settings.epsilon,
        delta=delta,
        noise_multiplier=noise,
        num_steps=num_rounds,
        sampling_rate=rate,
        num_units=num_clients,
        is_simulated=settings.is_simulated(cohort_size, has_given_key),
        noise_cohort=noise_cohort,
        cohort_size=cohort_size,
        clip_norm=settings.clip_norm,
        clip_quantile=settings.clip_quantile,
    )


def _noise(
    group: str, epsilon: float, delta: float, num_units: int, num_steps: int, sampling_rate: float
) -> float:
    """Return the noise multiplier of a budget; `group` is that of its settings.

    Raises ConfigError if delta would allow to publish a unit, or if a sum has no room for so much
    noise.
    """
    require(
        delta < 1 / num_units,
        f"{group}.delta below 1/{num_units}",
        f"{delta:g}",
        f"at that delta one of {num_units} may be published as it is, so leave it null",
    )
    noise = noise_for(epsilon, delta, num_steps, sampling_rate)
    require(
        noise <= MAX_NOISE,
        f"{group}.epsilon and {group}.delta that need a noise multiplier of at most {MAX_NOISE:g}",
        f"a budget that needs {noise:.3g}",
        f"raise {group}.epsilon",
    )
    return noise
