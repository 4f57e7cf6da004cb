"""Primary comparisons of a study: what it is about, written into its file before it runs.

All other differences of its report are exploratory.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from pipeline.config.build import build
from pipeline.results.metric_names import FLD_EXCESS, NN_SHARE, PRECISION, RECALL
from spire_core.config.checks import require
from spire_core.errors import ConfigError
from spire_core.methods import METHODS

MEASURES = {  # the metrics that can be compared, in words
    "final/adapt_kid_after": "new clients' KID",
    "final/adapt_tv_after": "new clients' TV",
    "final/adapt_heldout_after": "new clients' held-out loss",
    NN_SHARE: "new clients' NN share",
    FLD_EXCESS: "new clients' FLD gap less that of fresh images",
    PRECISION: "new clients' precision",
    RECALL: "new clients' recall",
    "final/adapt_forgetting_global": "KID that existing clients lose",
    "final/adapt_style_distance_after": "new clients' distance to the true images",
    "final/adapt_prompt_accuracy_after": "new clients' prompts read",
    "final/pretrain_kid_mean": "pre-training clients' KID",
    "final/pretrain_tv_mean": "pre-training clients' TV",
}
SCALES = ("ratio", "difference")


@dataclass(frozen=True)
class Primary:
    """One comparison: a method against another on the same seeds.

    `measure`: a metric of runs. `scale`: "ratio" compares logarithms, "difference" the values.
    `margin`: the methods match if they differ by less: a share of the score (0.1 is 10 %) with
    "ratio", else in units of the measure. `where`: values that settings of the compared runs have.
    """

    method: str = ""
    measure: str = "final/adapt_kid_after"
    margin: float = 0.1
    against: str = "spire"
    scale: str = "ratio"
    where: dict = field(default_factory=dict)

    def __post_init__(self) -> None:
        choices = {"method": METHODS, "against": METHODS, "measure": MEASURES, "scale": SCALES}
        for key, known in choices.items():
            value = getattr(self, key)
            expected = f"primary {key} as one of {', '.join(known)}"
            require(value in known, expected, repr(value), "choose one of them")
        different = f"primary method and against that differ, not both {self.against}"
        require(self.method != self.against, different, self.method, "change one")
        require(self.margin > 0, "a primary margin above 0", self.margin, "0.1 is 10 %")

    @property
    def limit(self) -> float:
        """The margin as a difference of what is compared."""
        return math.log1p(self.margin) if self.scale == "ratio" else self.margin

    @property
    def words(self) -> str:
        """The comparison in words."""
        place = ", ".join(f"{key}={value}" for key, value in self.where.items())
        where = f" at {place}" if place else ""
        return f"{MEASURES[self.measure]}{where}, {self.method} against {self.against}"


def primaries(values: Sequence[dict]) -> list[Primary]:
    """Return primary comparisons out of plain values; ConfigError names what is wrong."""
    found = [build(Primary, value) for value in values]
    for i, one in enumerate(found):
        if one in found[:i]:
            raise ConfigError(f"expected different primary comparisons, got {one.words} twice")
    return found
