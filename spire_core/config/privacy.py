"""Settings of differential privacy (`privacy.*`)."""

import hashlib
from dataclasses import dataclass, field, replace
from typing import Annotated

from spire_core.config.checks import Choice, Range, check_fields, require
from spire_core.errors import ConfigError

LABEL = "given:"  # how the label of a given noise key begins
SMALLEST_CLIP = 1e-30  # far below it, a vector over the clip norm has no finite float64


@dataclass(frozen=True)
class PrivateAdaptConfig:
    """Differential privacy of what a new client trains; the unit is one of its images.

    `epsilon`: the budget of one client, None for no privacy. `delta`: None is 1/(10 n) for a client
    of n training images. `clip_norm`: the largest contribution of one image, as an L2 norm; None
    takes the median over images that the published backbone generates. `steps`: noisy steps, in
    place of `adapt.epochs`. `draws`: noise draws per image and step.
    `batch_size`: a client with at most so many images takes all of them in every step; one with
    more draws each image by itself, so that a step has this many on average. `lr`: None is the
    method's own rate for noisy steps.

    `mechanism`: "dp_sgd" adds noise to every gradient (Abadi et al. 2016). "one_release" fits one
    embedding for each image in `steps` steps without noise and publishes their noisy mean
    (DPAgg-TI, Peetathawatchai et al. 2026).
    """

    epsilon: Annotated[
        float | None, Range(above=0, at_most=100, advice="4 is usual, null turns it off")
    ] = None
    delta: Annotated[
        float | None, Range(above=0, below=1, advice="null takes 1/(10 n) for n images")
    ] = None
    clip_norm: Annotated[
        float | None, Range(SMALLEST_CLIP, 1e6, advice="null chooses it without private images")
    ] = None
    steps: Annotated[int, Range(1, 100_000)] = 40
    draws: Annotated[int, Range(1, 10_000)] = 8
    batch_size: Annotated[int, Range(1, 100_000)] = 256
    lr: Annotated[
        float | None, Range(above=0, at_most=1000, advice="null takes the method's rate")
    ] = None
    mechanism: Annotated[str, Choice("dp_sgd", "one_release")] = "dp_sgd"

    def __post_init__(self) -> None:
        check_fields(self, "privacy.adapt")

    @property
    def is_on(self) -> bool:
        return self.epsilon is not None

    def sampling_rate(self, num_images: int) -> float:
        """Return the chance with which a step takes an image, for a client of so many."""
        if self.mechanism == "one_release":
            return 1.0
        return min(1.0, self.batch_size / num_images)


@dataclass(frozen=True)
class PrivateRoundsConfig:
    """Differential privacy of the backbone; the unit is one pre-training client with all its data.

    `epsilon`: the budget of all rounds, None for no privacy. `delta`: None is N^-1.1 for N clients.
    `clip_norm`: the largest change of the shared weights by one client in a round, as an L2 norm.
    `clip_quantile`: the share of clients whose change the clip norm is to cover, which it then
    follows from round to round (Andrew et al. 2021); None keeps it. `noise_cohort`: the noise, and
    the epsilon, of a cohort of so many clients; None is the cohort's own. A larger one simulates
    what a deployment would have, and is no promise to these clients.

    Cohorts are drawn by chance, and noise for each round (DP-FedAvg, McMahan et al. 2018).
    """

    epsilon: Annotated[
        float | None, Range(above=0, at_most=100, advice="8 is usual, null turns it off")
    ] = None
    delta: Annotated[
        float | None, Range(above=0, below=1, advice="null takes N^-1.1 for N clients")
    ] = None
    clip_norm: Annotated[
        float, Range(SMALLEST_CLIP, 1e6, advice="it bounds a client's change, by 0.5, say")
    ] = 0.5
    clip_quantile: Annotated[
        float | None, Range(above=0, below=1, advice="0.5 is usual, null keeps the clip norm")
    ] = None
    noise_cohort: Annotated[
        int | None, Range(1, 100_000_000, advice="null is federation.cohort_size")
    ] = None

    def __post_init__(self) -> None:
        check_fields(self, "privacy.rounds")

    @property
    def is_on(self) -> bool:
        return self.epsilon is not None

    def is_simulated(self, cohort_size: int, has_given_key: bool) -> bool:
        """Return whether the promise does not hold for the very clients of a run.

        Somebody may know the noise, or it is that of a larger cohort.
        """
        return has_given_key or self.noise_cohort not in (None, cohort_size)


@dataclass(frozen=True)
class PrivacyConfig:
    """Differential privacy, off by default.

    `noise_key`: a text from which all private noise is derived, so that a run can be repeated.
    Whoever knows it can subtract the noise: it makes a run a simulation of privacy. None draws a
    secret key for each run.
    """

    noise_key: str | None = None
    adapt: PrivateAdaptConfig = field(default_factory=PrivateAdaptConfig)
    rounds: PrivateRoundsConfig = field(default_factory=PrivateRoundsConfig)

    def __post_init__(self) -> None:
        check_fields(self, "privacy")
        is_key = self.noise_key is None or bool(self.noise_key)
        require(is_key, "privacy.noise_key as a text", "an empty one", "null draws a secret key")

    @property
    def is_on(self) -> bool:
        """Whether anything draws private noise."""
        return self.adapt.is_on or self.rounds.is_on

    def labelled(self) -> "PrivacyConfig":
        """Return the settings with the label of a given key in its place, to be stored and sent.

        The label tells two keys apart and is no key. A labelled configuration stays as it is.
        """
        return self if self.noise_key is None else replace(self, noise_key=label_of(self.noise_key))


def refuse_label(privacy: PrivacyConfig) -> None:
    """Raise ConfigError for the label of a given key in its place, if noise is drawn."""
    if privacy.is_on and (privacy.noise_key or "").startswith(LABEL):
        raise ConfigError(
            f"expected privacy.noise_key as the key itself, got the label {privacy.noise_key!r} "
            "that a run shows in its place: give the key, or null for a fresh one"
        )


def label_of(noise_key: str) -> str:
    """Return the label that is shown in place of a given key; a label stays as it is."""
    if noise_key.startswith(LABEL):
        return noise_key
    return LABEL + hashlib.sha256(noise_key.encode()).hexdigest()[:16]
