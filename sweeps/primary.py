"""Primary comparisons of a study: what it is about, written into its file before it runs.

All other differences of its report are exploratory.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

from pipeline.config.load import build, flattened, known_keys
from pipeline.config.meaning import determines, reads
from pipeline.config.schema import Config
from pipeline.results import metric_names as names
from pipeline.results.params import NO_PARAMS
from spire_core.config.checks import Choice, Range, check_fields, hint, require
from spire_core.methods import METHODS

KEYS = "docs/sweeps.md lists all"
TUNED_KID = names.tuned_name("pretrain/kid/mean")
HELDOUT = "final/adapt_heldout_after"
MEASURES = {  # the metrics that can be compared, in words
    "final/adapt_kid_after": "new clients' KID",
    "final/adapt_tv_after": "new clients' TV",
    HELDOUT: "new clients' held-out loss",
    names.NN_SHARE: "new clients' NN share",
    names.NN_EXCESS: "new clients' NN share above chance",
    names.COVERED_RATIO: "KID of covered new clients by that of the others",
    names.FLD: "new clients' FLD above that of fresh images",
    names.ELBO: "new clients' held-out bits a dimension, less those before the fit",
    names.NOVEL_KID: "new clients' KID without copies",
    names.PRECISION: "new clients' precision",
    names.RECALL: "new clients' recall",
    "final/adapt_forgetting_global": "KID that existing clients lose",
    "final/adapt_style_distance_after": "new clients' distance to the true images",
    "final/adapt_prompt_accuracy_after": "new clients' prompts read",
    "final/pretrain_kid_mean": "pre-training clients' KID",
    "final/pretrain_tv_mean": "pre-training clients' TV",
    names.OLD_FLD: "pre-training clients' FLD above that of fresh images",
    names.OLD_NOVEL_KID: "pre-training clients' KID without copies",
    TUNED_KID: "pre-training clients' KID after training on alone",
}
KIDS = (  # with captions none of these orders anything
    "final/pretrain_kid_mean",
    "final/adapt_kid_after",
    "final/adapt_forgetting_global",
    TUNED_KID,
    names.COVERED_RATIO,
)
# Zero or below, if all is well:
NO_RATIO = ("final/adapt_forgetting_global", names.NN_EXCESS, names.FLD, names.ELBO, names.OLD_FLD)
# Settings of a task: scores of runs that differ in them cannot be compared.
TASK = ("data.", "partition.", "federation.num_clients", "federation.num_new_clients")
TASK += ("privacy.adapt.epsilon", "privacy.adapt.delta")  # a promise is no choice of a method
TASK += ("privacy.rounds.epsilon", "privacy.rounds.delta", "eval.reference")
TASK += ("adapt.num_images", "eval.num_images", "eval.num_clients", "eval.kid_")
TASK += ("eval.num_loss_images",)
TASK += ("diffusion.prediction", "diffusion.schedule", "diffusion.num_timesteps")  # of a loss


@dataclass(frozen=True)
class Primary:
    """One comparison: a method against another on the same seeds.

    `measure`: a metric of runs. `scale`: "ratio" compares logarithms, "difference" the values.
    `margin`: the methods match if they differ by less: a share of the score (0.1 is 10 %) with
    "ratio", else in units of the measure. `where`: values that settings of the compared runs have.
    `family`: a name; comparisons are corrected for the number of those that share it.
    """

    method: Annotated[str, Choice(*METHODS)] = ""
    measure: Annotated[str, Choice(*MEASURES)] = "final/adapt_kid_after"
    margin: Annotated[float, Range(above=0)] = 0.1
    against: Annotated[str, Choice(*METHODS)] = "spire"
    scale: Annotated[str, Choice("ratio", "difference")] = "ratio"
    where: dict = field(default_factory=dict)
    family: str = ""

    def __post_init__(self) -> None:
        check_fields(self, "primary")
        advice = "change one"
        require(self.method != self.against, "two methods in a comparison", self.method, advice)
        is_difference = self.scale == "difference" or self.measure not in NO_RATIO
        expected = f"scale: difference for a primary comparison of {self.measure}"
        require(is_difference, expected, self.scale, "it may have no ratio")
        known = [k for k in known_keys(Config) if determines(k) and not k.startswith(NO_PARAMS)]
        known.remove("seed")
        for key in self.where:
            expected = "settings in a primary where that tell recorded runs apart"
            require(key in known, expected, repr(key), hint(key, known))

    @property
    def limit(self) -> float:
        """The margin as a difference of what is compared."""
        return math.log1p(self.margin) if self.scale == "ratio" else self.margin

    @property
    def words(self) -> str:
        """The comparison in words."""
        where = ", ".join(f"{key}={value}" for key, value in self.where.items())
        place = f" at {where}" if where else ""
        return f"{MEASURES[self.measure]}{place}, {self.method} against {self.against}"

    def fits(self, method: str, run: Mapping[str, Any]) -> bool:
        """Return whether a run with these params is one of a method's that are compared.

        A setting that the method does not read makes no difference to its runs.
        """
        read = {k: value for k, value in self.where.items() if reads(METHODS[method], k)}
        is_there = all(_is_same(run.get(key), value) for key, value in read.items())
        return run.get("method.name") == method and is_there


def _is_same(text: str | None, value: Any) -> bool:
    """Return whether a param of a run has a value: 16.0 is 16, and a list was logged as a tuple."""
    try:
        return float(text or "") == float(value)
    except (TypeError, ValueError):
        return text == str(tuple(value) if isinstance(value, list) else value)


def primaries(values: Sequence[dict]) -> list[Primary]:
    """Return primary comparisons out of plain values; ConfigError names what is wrong."""
    return [
        build(Primary, value | {"where": flattened(value.get("where") or {})}, KEYS)
        for value in values
    ]
