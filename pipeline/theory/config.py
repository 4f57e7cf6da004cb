"""The settings of the theory experiments, their presets and their YAML files."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

from pipeline.config.load import merge_settings
from pipeline.config.ranges import Ranges, check_ranges
from pipeline.config.safe_yaml import read_settings_file
from pipeline.config.tracking import TrackingConfig
from spire_core.errors import ConfigError
from spire_core.mixture.descent import DescentConfig
from spire_core.mixture.two_components import check_separation, check_weight, signal_and_noise

EXPERIMENTS = ("scaling", "failure", "optimiser", "components", "backbone", "bridge")


def _check_counts(minimum: int, **counts: int | Sequence[int]) -> None:
    for name, value in counts.items():
        values = [value] if isinstance(value, int) else value
        if not values or min(values) < minimum:
            raise ConfigError(f"expected {name} of at least {minimum}, got {value}: raise it")


@dataclass(frozen=True)
class ScalingConfig:
    """Experiment A: the error against n (at dimension `d`) and against d (with `n` samples).

    At each d, t is chosen so that ||mu_t|| is `m_t`: t grows with log d.
    """

    m_t: float = 0.75
    d: int = 64
    n: int = 200
    nums: tuple[int, ...] = (50, 100, 200, 500, 1000, 2000, 10000)
    dims: tuple[int, ...] = (2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
    steps: int = 32
    averaged: int = 18

    def __post_init__(self) -> None:
        check_separation(self.m_t)
        _check_counts(1, d=self.d, n=self.n, nums=self.nums, dims=self.dims)
        DescentConfig(steps=self.steps, averaged=self.averaged)


@dataclass(frozen=True)
class FailureConfig:
    """Experiment B: descent at fixed t, for each d at several m_t and at several t."""

    n: int = 200
    dims: tuple[int, ...] = (4, 16, 64, 256, 1024)
    separations: tuple[float, ...] = (0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.5)
    times: tuple[float, ...] = (0.1, 1.0)
    steps: int = 200
    averaged: int = 20

    def __post_init__(self) -> None:
        _check_counts(1, n=self.n, dims=self.dims)
        DescentConfig(steps=self.steps, averaged=self.averaged)
        for m_t in self.separations:
            check_separation(m_t)
        for t in self.times:
            signal_and_noise(t)


@dataclass(frozen=True)
class OptimiserConfig:
    """Experiment C: rates of convergence at several m_t, and weights near the ends."""

    separations: tuple[float, ...] = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0)
    weights: tuple[float, ...] = (0.0, 0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 0.98, 1.0)
    d: int = 16
    m_t: float = 0.75
    n: int = 200
    steps: int = 200
    replicates: int = 200

    def __post_init__(self) -> None:
        _check_counts(1, d=self.d, n=self.n, steps=self.steps)
        _check_counts(2, replicates=self.replicates)
        for m_t in (self.m_t, *self.separations):
            check_separation(m_t)
        for w in self.weights:
            check_weight(w)


@dataclass(frozen=True)
class ComponentsConfig:
    """Experiment D: K components, as shapes `general-K`, `orthogonal-K`, `circle-K`, or as `means`.

    `distance`: from mean to mean, in standard deviations (exact for orthogonal means and for
    neighbours on a circle, a root mean square in general position). `signal`: e^-t of the descent
    at one t. `concentration`: the true weights are one Dirichlet draw a shape.
    """

    shapes: tuple[str, ...] = (
        "general-3",
        "general-5",
        "general-10",
        "orthogonal-3",
        "orthogonal-5",
        "orthogonal-10",
        "circle-5",
        "circle-8",
    )
    means: tuple[tuple[float, ...], ...] = ()
    d: int = 16
    distance: float = 3.0
    signal: float = 0.5
    concentration: float = 4.0
    n: int = 500
    steps: int = 250
    averaged: int = 150
    replicates: int = 100

    def __post_init__(self) -> None:
        _check_counts(1, d=self.d, n=self.n)
        _check_counts(2, replicates=self.replicates)
        DescentConfig(steps=self.steps, averaged=self.averaged)
        check_separation(self.distance)
        if not 0.0 < self.signal < 1.0:
            raise ConfigError(
                f"expected components.signal = e^-t in (0, 1), got {self.signal}: t is above 0"
            )
        if not self.concentration > 0.0:
            raise ConfigError(
                f"expected components.concentration above 0, got {self.concentration}: 4 is mild"
            )


@dataclass(frozen=True)
class BackboneConfig:
    """Experiment E: the means are wrong by `sizes`, or learned from `clients` clients.

    Client weights are Beta(skew, skew) draws: below 1, most clients hold almost one component.
    """

    d: int = 64
    m: float = 2.0
    n: int = 200
    sizes: tuple[float, ...] = (0.0, 0.25, 0.5, 1.0, 1.5, 2.0)
    clients: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    client_n: int = 100
    skew: float = 0.5
    replicates: int = 400
    learned: int = 60

    def __post_init__(self) -> None:
        check_separation(self.m)
        _check_counts(1, n=self.n, clients=self.clients)
        _check_counts(2, d=self.d, client_n=self.client_n)
        _check_counts(2, replicates=self.replicates, learned=self.learned)
        if self.skew <= 0.0 or min(self.sizes, default=-1.0) < 0.0:
            raise ConfigError("expected backbone.skew above 0 and sizes of at least 0: raise them")


@dataclass(frozen=True)
class BridgeConfig:
    """Experiment F: the identity is checked on `n` samples at each separation ||mu||."""

    separations: tuple[float, ...] = (0.3, 1.0, 2.0, 4.0, 6.0)
    n: int = 100

    def __post_init__(self) -> None:
        _check_counts(1, n=self.n)
        for m in self.separations:
            check_separation(m)


@dataclass(frozen=True)
class TheoryConfig:
    """A set of theory experiments; ||mu|| = c sqrt(d) wherever d is given."""

    experiments: tuple[str, ...] = EXPERIMENTS
    seed: int = 0
    w: float = 0.3
    c: float = 1.0
    replicates: int = 500
    scaling: ScalingConfig = field(default_factory=ScalingConfig)
    failure: FailureConfig = field(default_factory=FailureConfig)
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    components: ComponentsConfig = field(default_factory=ComponentsConfig)
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    bridge: BridgeConfig = field(default_factory=BridgeConfig)
    tracking: TrackingConfig = field(default_factory=lambda: TrackingConfig(experiment="theory"))

    def __post_init__(self) -> None:
        check_ranges(self, THEORY)
        _check_counts(2, replicates=self.replicates)
        if check_weight(self.w) in (0.0, 1.0):
            raise ConfigError(
                f"expected w inside (0, 1), got {self.w}: the ends are in optimiser.weights"
            )
        check_separation(self.c)
        for name in self.experiments:
            if name not in EXPERIMENTS:
                raise ConfigError(
                    f"expected experiments out of {', '.join(EXPERIMENTS)}, got {name!r}: "
                    "choose from them"
                )

    def as_dict(self) -> dict[str, Any]:
        """Return the resolved settings as plain nested dictionaries."""
        return dataclasses.asdict(self)


def theory_names() -> list[str]:
    """Return the names of the presets that ship with the package."""
    names = (path.name for path in (resources.files("pipeline.theory") / "presets").iterdir())
    return sorted(name.removesuffix(".yaml") for name in names if name.endswith(".yaml"))


def load_theory(file_or_name: str, overrides: Sequence[str] = ()) -> TheoryConfig:
    """Return a preset's or a YAML file's settings with overrides; ConfigError if they are wrong."""
    if file_or_name in theory_names():
        path = resources.files("pipeline.theory") / "presets" / f"{file_or_name}.yaml"
        text = path.read_text()
    else:
        known = f"a YAML file or one of {', '.join(theory_names())}"
        text = read_settings_file(file_or_name, known)
    base = TheoryConfig().as_dict()
    return merge_settings(TheoryConfig, base, text, file_or_name, overrides)


THEORY: Ranges = {
    "c": (1e-6, 1e6),
    "replicates": (2, 1_000_000),
    "scaling.d": (1, 1_000_000),
    "scaling.n": (1, 1_000_000),
    "scaling.nums": (1, 1_000_000),
    "scaling.dims": (1, 1_000_000),
    "scaling.steps": (1, 1_000_000),
    "failure.n": (1, 1_000_000),
    "failure.dims": (1, 1_000_000),
    "failure.steps": (1, 1_000_000),
    "optimiser.d": (1, 1_000_000),
    "optimiser.n": (1, 1_000_000),
    "optimiser.steps": (1, 1_000_000),
    "optimiser.replicates": (2, 1_000_000),
    "failure.separations": (1e-6, 1e6),
    "failure.times": (1e-6, 1e6),
    "optimiser.separations": (1e-6, 1e6),
    "optimiser.weights": (0, 1),
    "bridge.separations": (1e-6, 1e6),
    "components.distance": (1e-6, 1e6),
    "components.concentration": (1e-3, 1e6),
    "components.d": (1, 10_000),
    "components.n": (1, 1_000_000),
    "components.steps": (1, 1_000_000),
    "components.replicates": (2, 1_000_000),
    "backbone.skew": (1e-3, 1e6),
    "backbone.sizes": (0, 1e6),
    "backbone.d": (2, 100_000),
    "backbone.n": (1, 1_000_000),
    "backbone.clients": (1, 10_000),
    "backbone.client_n": (2, 1_000_000),
    "backbone.replicates": (2, 1_000_000),
    "backbone.learned": (2, 1_000_000),
    "bridge.n": (1, 1_000_000),
}
