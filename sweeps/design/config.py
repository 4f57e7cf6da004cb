"""The settings of a sweep: a YAML file, or one of ours by name, with words `key=value` over it.

An axis names a key of the configuration and lists its values (`model.d_emb: [16, 64]`), or it has
any name and lists settings that go together (`period: [{federation.tau: 3}, {federation.tau: 12,
client.batch_size: 8}]`). For random and Optuna search an axis may also be a range, `{min: 1.0e-4,
max: 1.0e-1, log: true}`.
"""

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from itertools import takewhile
from pathlib import Path
from typing import Annotated, Any

from pipeline.config.load import NAMED_GROUPS, build, flattened, read_yaml, split_word
from pipeline.config.meaning import determines
from pipeline.config.schema import Config
from pipeline.results.metric_names import FINAL_METRICS, ROUND_METRICS
from spire_core.config.checks import Choice, Range, check_fields, hint, require
from spire_core.config.privacy import label_of
from sweeps.primary import KEYS, primaries

CONF = resources.files("sweeps") / "conf"
RECORDED = ("tracking.enabled", "tracking.uri", "tracking.experiment")
RANGE_KEYS = {"min", "max", "log", "integer"}


@dataclass(frozen=True)
class SweepConfig:
    """The settings of a sweep.

    `settings` hold for every trial, `axes` vary, each combination with each of `seeds`.
    `num_trials`: points that random and Optuna search draw. `scheduler`: one of Ray's, which stops
    trials that fall behind. `metric` and `mode` define the best trial. `concurrency`: trials at
    once, None for as many as fit. `max_failures`: how often a trial is restarted after its process,
    an actor or a node was lost. `autoscaling`: the cluster grows on demand, so
    a trial that does not fit now may fit later. `share_pretraining`: trials with
    the same pre-training run it once in this "sweep", or once for all sweeps under one tracking
    "root" that also set "root". `primary`: the comparisons that the sweep is about
    (`sweeps.primary`). `question`: it in words, for reports.
    """

    name: str = ""
    preset: str = "mnist-cpu"
    settings: dict = field(default_factory=dict)
    axes: dict = field(default_factory=dict)
    seeds: tuple[int, ...] = (0,)
    search: Annotated[str, Choice("grid", "random", "optuna")] = "grid"
    num_trials: Annotated[int | None, Range(1)] = None
    scheduler: Annotated[str, Choice("none", "asha", "median")] = "none"
    metric: str = "final/adapt_kid_after"
    mode: Annotated[str, Choice("min", "max")] = "min"
    concurrency: Annotated[int | None, Range(1)] = None
    max_failures: Annotated[int, Range(0)] = 2
    autoscaling: bool = False
    report: bool = True
    share_pretraining: Annotated[str, Choice("sweep", "root")] = "sweep"
    primary: tuple[dict, ...] = ()
    question: str = ""

    def __post_init__(self) -> None:
        check_fields(self, "")
        expected = "a sweep's name of letters, digits, dots and dashes"
        is_name = re.fullmatch(r"[\w.-]{1,100}", self.name) is not None
        require(is_name, expected, repr(self.name), "change name")
        is_set = 0 < len(self.seeds) == len({*self.seeds})
        require(is_set, "seeds as different numbers", [*self.seeds], "such as seeds=[0,1]")
        advice = "say how many points to draw" if self.is_drawn else "leave it out"
        expected = "num_trials with random and optuna search and not with grid"
        require(self.is_drawn == (self.num_trials is not None), expected, self.num_trials, advice)
        advice = "a search learns from single results; run the best points on more seeds as a grid"
        is_one = not self.is_drawn or len(self.seeds) == 1
        require(is_one, f"one seed with search={self.search}", [*self.seeds], advice)
        primaries(self.primary)
        known = ROUND_METRICS if self.scheduler != "none" else (*FINAL_METRICS, *ROUND_METRICS)
        is_final = self.scheduler == "none" and self.metric.startswith("final/")
        when = "" if self.scheduler == "none" else " while rounds run"
        expected = f"a metric that every trial reports{when}"
        require(self.metric in known or is_final, expected, self.metric, hint(self.metric, known))
        for name, axis in self.axes.items():
            self._check_axis(name, axis)
        self._check_keys()

    @property
    def is_drawn(self) -> bool:
        """Whether points are drawn from the axes."""
        return self.search != "grid"

    @property
    def needs_metric(self) -> bool:
        """Whether a search or a scheduler goes by each trial's metric."""
        return self.is_drawn or self.scheduler != "none"

    @property
    def key(self) -> str:
        """Hash of the settings that all trials share; it names the sweep's folder.

        More values or seeds, and other places to run in, leave a sweep the same. Another place to
        be recorded in makes another one. A search depends on values, seeds and mode too, because
        its points are positions on the axes; a scheduler on the mode, which decides whom it stops.
        """
        flat = settings_of(self.settings)
        settings = {k: v for k, v in flat.items() if determines(k) or k in RECORDED}
        common = [self.name, self.preset, settings, self.search, self.scheduler, self.metric]
        if self.is_drawn:
            common += [self.axes, self.seeds]
        if self.needs_metric:
            common.append(self.mode)
        return hashlib.sha256(json.dumps(common, sort_keys=True).encode()).hexdigest()[:8]

    def _check_axis(self, name: str, axis: Any) -> None:
        if self.is_drawn and isinstance(axis, dict) and {"min", "max"} <= axis.keys() <= RANGE_KEYS:
            is_met = axis["min"] < axis["max"] and (axis["min"] > 0 or not axis.get("log"))
            expected = f"axes.{name} from a lower to a higher number, above 0 with log"
            require(is_met, expected, axis, "such as {min: 1.0e-3, max: 1.0, log: true}")
            return
        key = next(iter(settings_of({name: axis})), name).removesuffix(".min")
        expected = f"axes.{name} as a list of values, or with search: random as a range"
        require(isinstance(axis, list) and bool(axis), expected, axis, f"such as {key}: [1, 2]")

    def _check_keys(self) -> None:
        """Raise ConfigError for a setting that another part of the sweep would overrule."""
        settings, on_axes = {*settings_of(self.settings)}, set[str]()
        for name, axis in self.axes.items():
            values = axis if isinstance(axis, list) else [None]
            points = [{*point_of(name, value)} for value in values]
            mentioned = set[str]().union(*points)
            twice = min(mentioned & on_axes, default="")
            require(not twice, f"one axis for {twice}", "two", "leave one out")
            both = min(settings.intersection(*points), default="")
            advice = "to choose some of the axis's values, set axes.KEY=[...]"
            require(not both, f"{both} among the settings or on an axis", "both", advice)
            on_axes |= mentioned
        is_seed = "seed" in on_axes | settings
        require(not is_seed, "seeds to say which seeds to run", "seed", "set seeds=[0, 1]")


def settings_of(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings by whole key, however they are nested; `method.name` is `method`."""
    groups = {f"{group}.name": group for group in NAMED_GROUPS}
    return {groups.get(key, key): value for key, value in flattened(values).items()}


def point_of(name: str, value: Any) -> dict[str, Any]:
    """Return the settings that a value on an axis stands for."""
    return settings_of(value if isinstance(value, dict) else {name: value})


def labelled(settings: Any, key: str = "") -> Any:
    """Return settings, however nested, with the label of a given noise key in its place."""
    if isinstance(settings, Mapping):
        return {name: labelled(value, name) for name, value in settings.items()}
    if isinstance(settings, list | tuple):
        return [labelled(value, key) for value in settings]
    is_key = key.endswith("noise_key") and isinstance(settings, str)
    return label_of(settings) if is_key else settings


# --- the file -------------------------------------------------------------------------------------


def sweep_names() -> list[str]:
    """Return the names of the sweeps that ship with the package."""
    return sorted(p.name.removesuffix(".yaml") for p in CONF.iterdir() if p.name.endswith(".yaml"))


def load_sweep(file: str, words: Sequence[str] = ()) -> SweepConfig:
    """Return a sweep from a file, or one of ours by name, with words.

    A word `key=value` sets a key of the sweep (`seeds=[0,1]`) or, for every trial, one of the
    configuration (`federation.num_rounds=10`). The comment with which a file begins is its
    question, unless it has another.
    """
    path: Any = CONF / f"{file}.yaml" if file in sweep_names() else Path(file).expanduser()
    known = f"a YAML file or one of {', '.join(sweep_names())}"
    values = {"name": Path(file).stem, "question": "", **read_yaml(path, known, sweep_names())}
    values["question"] = values["question"] or _first_comment(path.read_text(encoding="utf-8"))
    values |= {key: {} for key in ("settings", "axes") if values.get(key) is None}
    groups = {one.name for one in dataclasses.fields(Config)}
    for key, value in map(split_word, words):
        root, _, rest = key.partition(".")
        if root in groups:
            root, rest = "settings", key
        if rest and root == "settings":
            values[root] = settings_of(values[root]) | settings_of({rest: value})
        elif rest and root == "axes":
            values[root] = values[root] | {rest: value}
        else:
            values[key] = value
    return build(SweepConfig, values, KEYS)


def _first_comment(text: str) -> str:
    """Return the comment at the head of a YAML file as one line, without its marks."""
    lines = takewhile(lambda line: line.startswith("#"), text.lstrip().splitlines())
    return " ".join(" ".join(line.strip("#") for line in lines).split())
