"""The settings of the theory experiments, their presets and their YAML files."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

from pipeline.config.load import build, merged, read_words, read_yaml
from pipeline.config.tracking import TrackingConfig
from spire_core.config.checks import Choice, Range, check_choice, check_fields
from spire_core.mixture.descent import DescentConfig

EXPERIMENTS = ("scaling", "failure", "optimiser", "components", "backbone", "bridge")
EXPERIMENTS += ("landscape", "readout")
NO_DATA = "none"
Count = Annotated[int, Range(1, 1_000_000)]
Counts = Annotated[tuple[int, ...], Range(1, 1_000_000)]
Replicates = Annotated[int, Range(2, 1_000_000)]
Weights = Annotated[tuple[float, ...], Range(0, 1)]
_APART = Range(1e-6, 1e6)
_ROUNDED = Range(1e-6, 6)
Separation = Annotated[float, _APART]
Separations = Annotated[tuple[float, ...], _APART]
Times = Annotated[tuple[float, ...], Range(1e-6, 1e6)]


@dataclass(frozen=True)
class ScalingConfig:
    """Experiment A: the error against n (at dimension `d`) and against d (with `n` samples).

    At each d, t is chosen so that ||mu_t|| is `m_t`: t grows with log d.
    """

    m_t: Separation = 0.75
    d: Count = 64
    n: Count = 200
    nums: Counts = (50, 100, 200, 500, 1000, 2000, 10000)
    dims: Counts = (2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
    steps: Count = 32
    averaged: int = 18

    def __post_init__(self) -> None:
        check_fields(self, "scaling")
        DescentConfig(steps=self.steps, averaged=self.averaged)


@dataclass(frozen=True)
class FailureConfig:
    """Experiment B: descent at fixed t, for each d at several m_t and at several t."""

    n: Count = 200
    dims: Counts = (4, 16, 64, 256, 1024)
    separations: Separations = (0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.5)
    times: Times = (0.1, 1.0)
    steps: Count = 200
    averaged: int = 20

    def __post_init__(self) -> None:
        check_fields(self, "failure")
        DescentConfig(steps=self.steps, averaged=self.averaged)


@dataclass(frozen=True)
class OptimiserConfig:
    """Experiment C: rates of convergence at several m_t, and weights near the ends."""

    separations: Separations = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0)
    weights: Weights = (0.0, 0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 0.98, 1.0)
    d: Count = 16
    m_t: Separation = 0.75
    n: Count = 200
    steps: Count = 200
    replicates: Replicates = 200

    def __post_init__(self) -> None:
        check_fields(self, "optimiser")


@dataclass(frozen=True)
class ComponentsConfig:
    """Experiment D: K components, as shapes `general-K`, `orthogonal-K`, `circle-K`, or as `means`.

    `distance`: from mean to mean, in standard deviations (exact for orthogonal means and for
    neighbours on a circle, a root mean square in general position). `signal`: e^-t of the descent
    at one t. `concentration`: the true weights are one Dirichlet draw a shape. `slower`: replicates
    of maximum likelihood and of descent at one t.
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
    d: Annotated[int, Range(1, 10_000)] = 16
    distance: Separation = 3.0
    signal: Annotated[float, Range(above=0, below=1)] = 0.5
    concentration: Annotated[float, Range(1e-3, 1e6)] = 4.0
    n: Count = 300
    steps: Count = 130
    averaged: int = 80
    replicates: Replicates = 1000
    slower: Replicates = 60

    def __post_init__(self) -> None:
        check_fields(self, "components")
        DescentConfig(steps=self.steps, averaged=self.averaged)


@dataclass(frozen=True)
class BackboneConfig:
    """Experiment E: the means are wrong by `sizes`, or learned from `clients` clients.

    Client weights are Beta(skew, skew) draws: below 1, most clients hold almost one component. The
    control has Beta(even, even) weights, near 1/2. `m_t` is that of the loss at one t.
    """

    d: Annotated[int, Range(2, 100_000)] = 64
    m: Separation = 2.0
    n: Count = 200
    sizes: Annotated[tuple[float, ...], Range(0, 1e6)] = (0.0, 0.25, 0.5, 1.0, 1.5, 2.0)
    clients: Annotated[tuple[int, ...], Range(1, 10_000)] = (1, 2, 4, 8, 16, 32)
    client_n: Annotated[int, Range(2, 1_000_000)] = 100
    skew: Annotated[float, Range(1e-3, 1e6)] = 0.5
    even: Annotated[float, Range(1e-3, 1e6)] = 50.0
    m_t: Separation = 1.0
    replicates: Replicates = 400
    learned: Replicates = 60

    def __post_init__(self) -> None:
        check_fields(self, "backbone")


@dataclass(frozen=True)
class BridgeConfig:
    """Experiment F: the identity is checked on `n` samples at each separation ||mu||.

    `gradients`: the ||mu|| at which the sizes of gradients are compared.
    """

    separations: Separations = (0.3, 1.0, 2.0, 4.0, 6.0)
    n: Count = 100
    gradients: Separations = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)

    def __post_init__(self) -> None:
        check_fields(self, "bridge")


@dataclass(frozen=True)
class LandscapeConfig:
    """Experiment G: the expected loss of two components at one t, and of any shapes over all t.

    `weights` are the w beside the common one. The weights of shapes are one Dirichlet draw, and
    `replicates` samples of size `n` give the error of their estimates. `steps`: of descent over all
    t; null takes 800, or as many as the weights need.
    """

    separations: Annotated[tuple[float, ...], _ROUNDED] = (0.1, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0)
    weights: Annotated[tuple[float, ...], Range(above=0, below=1)] = (0.001, 0.02, 0.1, 0.5)
    concentration: Annotated[float, Range(1e-3, 1e6)] = 4.0
    steps: Annotated[int | None, Range(1, 1_000_000)] = None
    n: Count = 2000
    replicates: Replicates = 1000

    def __post_init__(self) -> None:
        check_fields(self, "landscape")


@dataclass(frozen=True)
class ReadoutConfig:
    """Experiment H: mixtures read off a classifier from `n` samples of `dims` coordinates.

    `data`: the data set whose shipped classifier is measured on its test images, at `image_size`
    pixels; `none` leaves it out. `clients` new ones with Dirichlet mixtures have `images` each.
    In `worlds` for each number of `old_clients`, `new_clients` are compared with the hull.
    """

    dims: Counts = (1, 2, 4, 8, 16, 64, 256)
    n: Count = 200
    replicates: Replicates = 400
    data: Annotated[str, Choice(NO_DATA, "mnist", "fashion_mnist", "cifar10")] = "mnist"
    image_size: Annotated[int, Range(8, 64)] = 16
    images: Counts = (64, 128, 256)
    clients: Replicates = 2000
    concentration: Annotated[float, Range(1e-3, 1e6)] = 0.1
    old_clients: Counts = (8, 24, 96, 384)
    new_clients: Count = 20
    worlds: Count = 5

    def __post_init__(self) -> None:
        check_fields(self, "readout")


@dataclass(frozen=True)
class TheoryConfig:
    """A set of theory experiments; ||mu|| = c sqrt(d) wherever d is given."""

    experiments: tuple[str, ...] = EXPERIMENTS
    seed: int = 0
    w: Annotated[float, Range(above=0, below=1)] = 0.3
    c: Separation = 1.0
    replicates: Replicates = 500
    scaling: ScalingConfig = field(default_factory=ScalingConfig)
    failure: FailureConfig = field(default_factory=FailureConfig)
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    components: ComponentsConfig = field(default_factory=ComponentsConfig)
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    bridge: BridgeConfig = field(default_factory=BridgeConfig)
    landscape: LandscapeConfig = field(default_factory=LandscapeConfig)
    readout: ReadoutConfig = field(default_factory=ReadoutConfig)
    tracking: TrackingConfig = field(default_factory=lambda: TrackingConfig(experiment="theory"))

    def __post_init__(self) -> None:
        check_fields(self, "")
        for name in self.experiments:
            check_choice("experiments", name, EXPERIMENTS)

    def as_dict(self) -> dict[str, Any]:
        """Return the resolved settings as plain nested dictionaries."""
        return dataclasses.asdict(self)


def theory_names() -> list[str]:
    """Return the names of the presets that ship with the package."""
    names = (path.name for path in (resources.files("pipeline.theory") / "presets").iterdir())
    return sorted(name.removesuffix(".yaml") for name in names if name.endswith(".yaml"))


def load_theory(file_or_name: str, overrides: Sequence[str] = ()) -> TheoryConfig:
    """Return a preset's or a YAML file's settings with overrides; ConfigError if they are wrong."""
    names = theory_names()
    is_ours, known = file_or_name in names, f"a YAML file or one of {', '.join(names)}"
    presets = resources.files("pipeline.theory") / "presets"
    path = presets / f"{file_or_name}.yaml" if is_ours else Path(file_or_name).expanduser()
    settings = merged(read_yaml(path, known, names), read_words(overrides))
    return build(TheoryConfig(), settings, "--dry-run alone lists them (docs/theory.md)")
