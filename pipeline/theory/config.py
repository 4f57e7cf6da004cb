"""The settings of the theory experiments, and the names under which they run."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

from pipeline.config.load import build, read_words
from pipeline.config.tracking import TrackingConfig
from spire_core.config.checks import Range, check_choice, check_fields

EXPERIMENTS = ("scaling", "failure", "optimiser", "components", "backbone", "bridge")
EXPERIMENTS += ("landscape", "readout", "weights")
NAMES = {"all": EXPERIMENTS, "theorem": ("scaling", "failure")}
NAMES |= {name: (name,) for name in EXPERIMENTS}


@dataclass(frozen=True)
class TheoryConfig:
    """Which experiments run, on clients of which weight.

    `w`: the client's mixing weight, below 1/2, where descent starts. `replicates`: of every
    experiment; None is each one's own number.
    """

    experiments: tuple[str, ...] = EXPERIMENTS
    seed: int = 0
    w: Annotated[float, Range(above=0, below=0.5)] = 0.3
    replicates: Annotated[int | None, Range(2, 1_000_000)] = None
    tracking: TrackingConfig = field(default_factory=lambda: TrackingConfig(experiment="theory"))

    def __post_init__(self) -> None:
        check_fields(self, "")
        for name in self.experiments:
            check_choice("experiments", name, EXPERIMENTS)

    def as_dict(self) -> dict[str, Any]:
        """Return the settings as plain nested dictionaries."""
        return dataclasses.asdict(self)


def load_theory(name: str, words: Sequence[str] = ()) -> TheoryConfig:
    """Return the settings of named experiments, with words `key=value` over them."""
    check_choice("a name", name, list(NAMES))
    return build(TheoryConfig(NAMES[name]), read_words(words), "docs/theory.md lists them")
