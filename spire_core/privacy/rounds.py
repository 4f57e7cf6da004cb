"""The promise to pre-training clients: what the backbone may tell about any one of them.

Each round publishes the sum of clipped changes of a cohort plus Gaussian noise. Neighbours differ
by one client that is added or left out, with all its data and in all rounds. Cohorts are drawn by
chance (Poisson).

Adaptive clipping also publishes the noisy number of clients within the clip norm. Each adds b - 1/2
with b in {0, 1}, whose noise has the standard deviation sigma_b. Both together are one Gaussian
mechanism with the multiplier z if the sum's own is (z^-2 - (2 sigma_b)^-2)^(-1/2) (Andrew et al.
2021, theorem 1).
"""

import functools
import math
from dataclasses import dataclass

from spire_core.config.checks import require
from spire_core.config.privacy import SMALLEST_CLIP, PrivateRoundsConfig
from spire_core.errors import BudgetError
from spire_core.privacy.accounting import check_noise, epsilon_spent, noise_for

CLIENT_UNIT = "one client"
CLIP_RATE = 0.2  # of adaptive clipping, and the noise of its counts: Andrew et al. 2021, section 3
COUNT_NOISE = 1 / 20  # sigma_b over the expected cohort


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
class RoundsGuarantee:
    """(epsilon, delta)-differential privacy of one client after `num_rounds` rounds at most.

    `noise_multiplier`: z, of a cohort of `noise_cohort` clients, each drawn with the chance
    `sampling_rate`. `cohort_size`: the clients that are simulated on average. `is_simulated`: the
    promise does not hold for these very clients.
    """

    epsilon: float
    delta: float
    num_rounds: int
    noise_multiplier: float
    sampling_rate: float
    noise_cohort: int
    cohort_size: int
    clip_norm: float
    clip_quantile: float | None
    is_simulated: bool

    @property
    def is_scaled(self) -> bool:
        """Whether the noise is that of a larger cohort than the one that is simulated."""
        return self.noise_cohort != self.cohort_size

    @property
    def source(self) -> str:
        """`secret`, or `simulated`."""
        return "simulated" if self.is_simulated else "secret"

    def spent(self, num_rounds: int) -> float:
        """Return the epsilon of so many rounds."""
        if num_rounds == 0:
            return 0.0
        spent = epsilon_spent(self.noise_multiplier, num_rounds, self.sampling_rate, self.delta)
        return min(spent, self.epsilon) if num_rounds <= self.num_rounds else spent

    def check(self, num_releases: int) -> None:
        """Raise BudgetError if one more round would exceed the budget of the run."""
        if num_releases >= self.num_rounds:
            raise BudgetError(
                f"expected at most {self.num_rounds} noisy sums, which is what epsilon "
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

    def as_texts(self) -> dict[str, str]:
        """Return the promise as named texts, for the tags of a run."""
        texts = {
            "dp": self.source,
            "privacy.unit": CLIENT_UNIT,
            "privacy.epsilon": f"{self.epsilon:g}",
            "privacy.mechanism": "noisy_rounds",
        }
        return texts | ({"privacy.noise_cohort": str(self.noise_cohort)} if self.is_scaled else {})

    def as_header(self) -> dict[str, str]:
        """Return the promise as named texts, for the header of the file that holds the backbone."""
        texts = {k: v for k, v in self.as_texts().items() if k != "dp"}
        more = {"privacy.dp": self.source, "privacy.delta": str(self.delta)}
        return texts | more | {"privacy.rounds": str(self.num_rounds)}


@functools.lru_cache(maxsize=64)  # a search takes seconds
def rounds_guarantee(
    settings: PrivateRoundsConfig,
    num_clients: int,
    cohort_size: int,
    num_rounds: int,
    has_given_key: bool = False,
) -> RoundsGuarantee | None:
    """Return the guarantee to the clients of a run; None if there is no budget.

    Raises ConfigError if delta would allow to publish a client, if the noise is too much for a sum
    or for adaptive clipping, or if dp-accounting is missing.
    """
    if settings.epsilon is None:
        return None
    delta = _delta(settings, num_clients)
    noise_cohort = settings.noise_cohort or cohort_size
    rate = noise_cohort / num_clients
    noise = noise_for(settings.epsilon, delta, num_rounds, rate)
    check_noise(noise, "privacy.rounds")
    most = 2 * COUNT_NOISE * noise_cohort
    require(
        settings.clip_quantile is None or noise < most,
        f"a noise multiplier below {most:.3g} with privacy.rounds.clip_quantile",
        f"{noise:.3g}",
        "the count that adapts the clip norm would take the whole budget, so raise the cohort or "
        "leave privacy.rounds.clip_quantile null",
    )
    return RoundsGuarantee(
        epsilon=settings.epsilon,
        delta=delta,
        num_rounds=num_rounds,
        noise_multiplier=noise,
        sampling_rate=rate,
        noise_cohort=noise_cohort,
        cohort_size=cohort_size,
        clip_norm=settings.clip_norm,
        clip_quantile=settings.clip_quantile,
        is_simulated=settings.is_simulated(cohort_size, has_given_key),
    )


def _delta(settings: PrivateRoundsConfig, num_clients: int) -> float:
    """Return the given delta or N^-1.1; ConfigError if it would allow to publish a client."""
    require(
        num_clients > 1 or settings.delta is not None,
        "federation.num_clients of at least 2 with privacy.rounds.epsilon",
        num_clients,
        "for one client N^-1.1 promises nothing, so raise it or give privacy.rounds.delta",
    )
    delta = num_clients**-1.1 if settings.delta is None else settings.delta
    require(
        delta < 1 / num_clients,
        f"privacy.rounds.delta below 1/{num_clients} for {num_clients} clients",
        f"{delta:g}",
        "at that delta one client may be published as it is, so leave it null for N^-1.1",
    )
    return delta
