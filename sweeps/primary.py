"""Primary comparisons of a study: what it is about, written into its file before it runs.

All other differences of its report are exploratory.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

from pipeline.config.load import NAMED_GROUPS, build, flattened, known_keys
from pipeline.config.meaning import determines, reads
from pipeline.config.schema import Config
from pipeline.results.metric_names import (
    COVERED_RATIO,
    FLD_EXCESS,
    NN_EXCESS,
    NN_SHARE,
    PRECISION,
    RECALL,
    tuned_name,
)
from pipeline.results.params import NO_PARAMS
from spire_core.config.checks import Choice, Range, check_fields, hint, require
from spire_core.errors import ConfigError
from spire_core.methods import METHODS

TUNED_KID = tuned_name("pretrain/kid/mean")
HELDOUT = "final/adapt_heldout_after"
MEASURES = {  # the metrics that can be compared, in words
    "final/adapt_kid_after": "new clients' KID",
    "final/adapt_tv_after": "new clients' TV",
    HELDOUT: "new clients' held-out loss",
    NN_SHARE: "new clients' NN share",
    NN_EXCESS: "new clients' NN share above chance",
    COVERED_RATIO: "KID of covered new clients by that of the others",
    FLD_EXCESS: "new clients' FLD gap less that of fresh images",
    PRECISION: "new clients' precision",
    RECALL: "new clients' recall",
    "final/adapt_forgetting_global": "KID that existing clients lose",
    "final/adapt_style_distance_after": "new clients' distance to the true images",
    "final/adapt_prompt_accuracy_after": "new clients' prompts read",
    "final/pretrain_kid_mean": "pre-training clients' KID",
    "final/pretrain_tv_mean": "pre-training clients' TV",
    TUNED_KID: "pre-training clients' KID after training on alone",
}
KIDS = (  # with captions none of these orders anything
    "final/pretrain_kid_mean",
    "final/adapt_kid_after",
    "final/adapt_forgetting_global",
    TUNED_KID,
    COVERED_RATIO,
)
TARGET = ("diffusion.prediction", "diffusion.schedule", "diffusion.num_timesteps")  # of the loss
# Measures of one scale alone: three are zero or below, if all is well, and one is a ratio.
NO_RATIO = dict.fromkeys(("final/adapt_forgetting_global", NN_EXCESS, FLD_EXCESS), "difference")
SCALE_OF = {**NO_RATIO, COVERED_RATIO: "ratio"}
# Settings of a task: scores of runs that differ in them cannot be compared.
TASK = ("data.", "partition.", "federation.num_clients", "federation.num_new_clients")
TASK += ("privacy.adapt.epsilon", "privacy.adapt.delta")  # a promise is no choice of a method
TASK += ("privacy.rounds.epsilon", "privacy.rounds.delta", "eval.reference")
TASK += ("adapt.num_images", "eval.num_images", "eval.num_clients", "eval.kid_")
TASK += ("eval.num_loss_images",)
Run = tuple[str, Mapping[str, str]]  # a method, and all params of a run with it


@dataclass(frozen=True)
class Primary:
    """One comparison: a method against another, or against itself, on the same seeds.

    `measure`: a metric of runs. `scale`: "ratio" compares logarithms, "difference" the values.
    `margin`: the methods match if they differ by less: a share of the score (0.1 is 10 %) with
    "ratio", else in units of the measure. `where`: values that settings of the compared runs have;
    `against_where`: those of the runs compared with, if others. `family`: a name; comparisons are
    corrected for the number of those that share it.
    """

    method: Annotated[str, Choice(*METHODS)] = ""
    measure: Annotated[str, Choice(*MEASURES)] = "final/adapt_kid_after"
    margin: Annotated[float, Range(above=0)] = 0.1
    against: Annotated[str, Choice(*METHODS)] = "spire"
    scale: Annotated[str, Choice("ratio", "difference")] = "ratio"
    where: dict = field(default_factory=dict)
    against_where: dict | None = None
    family: str = ""

    def __post_init__(self) -> None:
        check_fields(self, "primary")
        different = f"primary method and against that differ, not both {self.against}"
        is_other = self.against_where not in (None, self.where)
        advice = "change one, or name other settings in against_where"
        require(self.method != self.against or is_other, different, self.method, advice)
        keys: list[str] = [*self.where, *(self.against_where or {})]
        sides = [side.where for side in self.sides]
        apart = [key for key in keys if sides[0].get(key) != sides[1].get(key)]
        task = next((key for key in apart if key.startswith(TASK)), None)
        alike = f"both sides of a primary comparison with the same {task}"
        require(task is None, alike, self.against_where, "scores of different tasks do not compare")

    @property
    def limit(self) -> float:
        """The margin as a difference of what is compared."""
        return math.log1p(self.margin) if self.scale == "ratio" else self.margin

    @property
    def words(self) -> str:
        """The comparison in words."""
        where = f" at {self.place}" if self.place else ""
        return f"{MEASURES[self.measure]}{where}, {self.method} against {self.other}"

    @property
    def place(self) -> str:
        """The values of `where` in words, such as `adapt.num_images=16`."""
        return place_of(self.where)

    @property
    def other(self) -> str:
        """The method that is compared with, and its own settings, in words."""
        return self.against + (f" at {place_of(self.against_where)}" if self.against_where else "")

    @property
    def sides(self) -> tuple["Side", "Side"]:
        """What is compared, and what with."""
        others = self.where if self.against_where is None else self.against_where
        return Side(self.method, self.where), Side(self.against, others)


@dataclass(frozen=True)
class Side:
    """One side of a comparison: the runs of a method with these settings."""

    method: str
    where: Mapping[str, Any]

    @property
    def counting(self) -> dict[str, Any]:
        """The settings that the method reads: another makes no difference to its runs."""
        return {k: v for k, v in self.where.items() if reads(METHODS[self.method], k)}

    def fits(self, method: str, params: Mapping[str, str]) -> bool:
        """Return whether a run of a method is meant."""
        return method == self.method and agree(params, self.counting)


def agree(params: Mapping[str, str], wanted: Mapping[str, Any]) -> bool:
    """Return whether a run's params have these values."""
    return all(_is_same(params.get(key), value) for key, value in wanted.items())


def place_of(where: Mapping[str, Any]) -> str:
    """Return settings in words."""
    return ", ".join(f"{key}={value}" for key, value in where.items())


def _is_same(text: str | None, value: Any) -> bool:
    if isinstance(value, list | tuple):
        parts = (text or "").strip("()[]").split(",")
        items = [part.strip().strip("'") for part in parts if part.strip()]
        return len(items) == len(value) and all(map(_is_same, items, value))
    wanted = str(value)
    if text is None or text == wanted:
        return text == wanted
    try:
        return float(text) == float(wanted)
    except ValueError:
        return False


def primaries(values: Sequence[dict]) -> list[Primary]:
    """Return primary comparisons out of plain values; ConfigError names what is wrong."""
    found = [
        build(Primary, _with_whole_keys(value), "docs/sweeps.md lists them") for value in values
    ]
    for i, one in enumerate(found):
        if one in found[:i]:
            raise ConfigError(f"expected different primary comparisons, got {one.words} twice")
    return found


def _with_whole_keys(value: Any) -> Any:
    """Return the values of a comparison whose settings may be nested by group."""
    for name in ("where", "against_where") if isinstance(value, dict) else ():
        if isinstance(where := value.get(name), dict):
            flat = flattened(where).items()
            whole = {f"{k}.name" if k in NAMED_GROUPS else k: v for k, v in flat}
            value = value | {name: whole}
    return value


def check_primaries(found: Sequence[Primary]) -> None:
    """Raise ConfigError for a scale that a measure cannot have, or a `where` that no run shows."""
    known = [key for key in known_keys(Config) if key != "seed" and determines(key)]
    for one in found:
        scale = SCALE_OF.get(one.measure, one.scale)
        expected = f"scale: {scale} for a primary comparison of {one.measure}"
        advice = "it may have no ratio" if scale == "difference" else "0 stands for no ratio"
        require(one.scale == scale, expected, one.scale, advice)
        for name in (key for side in one.sides for key in side.where):
            is_told = name in known and not name.startswith(NO_PARAMS)
            expected = "settings in a primary where that tell recorded runs apart"
            require(is_told, expected, repr(name), hint(name, known))
