"""The settings of a sweep. `load` reads its file, and `points` makes the trials out of them.

An axis names a key of the configuration and lists its values (`model.d_emb: [16, 64]`), or it has
any name and lists settings that go together (`period: [{federation.tau: 3}, {federation.tau: 12,
client.batch_size: 8}]`). For random and Optuna search an axis may also be a range, `{min: 1.0e-4,
max: 1.0e-1, log: true}`.
"""

import hashlib
import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from pipeline.config.load import NAMED_GROUPS, flattened, load_config
from pipeline.config.meaning import determines
from spire_core.config.checks import hint
from spire_core.errors import ConfigError
from sweeps.design.axes import check_axis
from sweeps.design.metric import check_metric
from sweeps.design.settings import (
    BY_PATH,
    labelled,
    located_value,
    relative_paths,
    settings_of,
    shown,
    with_absolute_path,
)
from sweeps.primary import check_primaries, primaries

SEARCHES, SCHEDULERS, MODES = ("grid", "random", "optuna"), ("none", "asha"), ("min", "max")
SHARED_IN = ("sweep", "root")
RECORDED = ("tracking.enabled", "tracking.uri", "tracking.experiment")
NAME = re.compile(r"[\w.-]{1,100}")
MAX_TRIALS = 10_000


@dataclass(frozen=True)
class SweepConfig:
    """The settings of a sweep.

    `settings` hold for every trial, `axes` vary, each combination with each of `seeds`.
    `num_trials`: points that random and Optuna search draw. `metric` and `mode` define the best
    trial. `concurrency`: trials at once, None for as many as fit. `budget_s`: seconds after which
    every trial stops. `max_failures`: how often a trial is restarted after its process, an actor or
    a node was lost. `autoscaling`: the cluster grows on demand, so a trial that does not fit now
    may fit later. `share_pretraining`: trials with the same pre-training run it once in this
    "sweep", or once for all sweeps under one tracking "root" that also set "root". `primary`: the
    comparisons that the sweep is about (`sweeps.primary`). `question`: it in words, for reports.
    """

    name: str = ""
    preset: str = "mnist-cpu"
    settings: dict = field(default_factory=dict)
    axes: dict = field(default_factory=dict)
    seeds: tuple[int, ...] = (0,)
    search: str = "grid"
    num_trials: int | None = None
    scheduler: str = "none"
    metric: str = "final/adapt_kid_after"
    mode: str = "min"
    concurrency: int | None = None
    budget_s: float | None = None
    max_failures: int = 2
    autoscaling: bool = False
    report: bool = True
    share_pretraining: str = "sweep"
    primary: tuple[dict, ...] = ()
    question: str = ""

    def __post_init__(self) -> None:
        self._check_choices()
        self._check_numbers()
        check_primaries(primaries(self.primary))
        if self.share_pretraining == "root" and (key := self._unnamed()) is not None:
            raise ConfigError(
                f"expected share_pretraining=sweep with {key}, whose files may change from one "
                "sweep to another, got root: leave it out"
            )
        check_metric(self.metric, self.scheduler, flattened(self.settings))
        for name, axis in self.axes.items():
            check_axis(name, axis, self.search)
        self._check_keys()
        sizes = [len(axis) for axis in self.axes.values() if isinstance(axis, list)]
        num_points = self.num_trials or math.prod(sizes)
        if num_points * len(self.seeds) > MAX_TRIALS:
            raise ConfigError(
                f"expected at most {MAX_TRIALS} trials, got {num_points} points with "
                f"{len(self.seeds)} seeds: split the sweep"
            )

    def _check_choices(self) -> None:
        if not NAME.fullmatch(self.name):
            raise ConfigError(
                f"expected a sweep's name of letters, digits, dots and dashes, got {self.name!r}: "
                "change name"
            )
        choices = {"search": SEARCHES, "scheduler": SCHEDULERS, "mode": MODES}
        for key, known in (choices | {"share_pretraining": SHARED_IN}).items():
            if getattr(self, key) not in known:
                raise ConfigError(
                    f"expected {key} as {' or '.join(known)}, got {getattr(self, key)!r}: "
                    f"{hint(str(getattr(self, key)), known)}"
                )

    def _check_numbers(self) -> None:
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ConfigError(
                f"expected seeds as different numbers, got {list(self.seeds)}: such as seeds=[0,1]"
            )
        is_drawn = self.search != "grid"
        if is_drawn != (self.num_trials is not None):
            raise ConfigError(
                f"expected num_trials with random and optuna search and not with grid, got "
                f"{self.num_trials} with {self.search}: "
                f"{'say how many points to draw' if is_drawn else 'leave it out'}"
            )
        if self.search == "optuna" and len(self.seeds) > 1:
            raise ConfigError(
                f"expected one seed with optuna search, got {list(self.seeds)}: it learns from "
                "single results; run the best points on more seeds with a grid afterwards"
            )
        for key, minimum in (("num_trials", 1), ("concurrency", 1), ("max_failures", 0)):
            value = getattr(self, key)
            if value is not None and value < minimum:
                raise ConfigError(f"expected {key} of at least {minimum}, got {value}: raise it")
        if self.budget_s is not None and self.budget_s <= 0:
            raise ConfigError(f"expected budget_s above 0, got {self.budget_s}: raise it")

    def _unnamed(self) -> str | None:
        """Return a key among the settings that names files but not their content."""
        named = {*self._of_preset(), *self._mentioned()}
        return next((key for key in BY_PATH if key in named), None)

    def _mentioned(self) -> set[str]:
        """Return the keys among the settings and on the axes."""
        mentioned = set(flattened(self.settings))
        for name, axis in self.axes.items():
            for value in axis if isinstance(axis, list) else ():
                mentioned |= set(settings_of(name, value))
        return mentioned

    def _of_preset(self) -> dict[str, str]:
        """Return what the preset's own relative paths stand for here, where they count."""
        return relative_paths(load_config(self.preset), self._mentioned())

    def located(self) -> "SweepConfig":
        """Return the sweep with absolute paths, for processes that run in other folders."""
        axes = {
            name: [located_value(name, one) for one in axis] if isinstance(axis, list) else axis
            for name, axis in self.axes.items()
        }
        settings = {**self._of_preset(), **with_absolute_path(flattened(self.settings))}
        return replace(self, settings=settings, axes=axes)

    def _check_keys(self) -> None:
        """Raise ConfigError for a setting that another part of the sweep would overrule."""
        try:
            json.dumps([self.settings, self.axes])
        except TypeError as error:
            raise ConfigError(
                f"expected plain settings and axes, got {error}: use numbers, texts and lists"
            ) from error
        overruled, on_axes = set[str](), set[str]()  # by an axis in every trial; in any
        for name, axis in self.axes.items():
            values = axis if isinstance(axis, list) else []
            points = [canonical(settings_of(name, value)) for value in values]
            mentioned = set[str]().union(*points) or canonical([name])
            if twice := mentioned & on_axes:
                raise ConfigError(f"expected one axis for {min(twice)}, got two: leave one out")
            on_axes |= mentioned
            overruled |= mentioned.intersection(*points)
        settings = canonical(flattened(self.settings))
        if both := overruled & settings:
            key = min(both)
            raise ConfigError(
                f"expected {key} among the settings or on an axis, got both: to choose some of the "
                f"axis's values, set axes.KEY=[...]"
            )
        if "seed" in on_axes | settings:
            raise ConfigError("expected seeds to say which seeds to run, got seed: seeds=[0, 1]")

    @property
    def key(self) -> str:
        """Hash of the settings that all trials share; it names the sweep's folder.

        More values or seeds, and other places to run in, leave a sweep the same. Another place to
        be recorded in makes another one. An Optuna search depends on values, seeds and mode too,
        because its points are positions on the axes; ASHA on the mode, which decides whom it stops.
        """
        flat = {**self._of_preset(), **with_absolute_path(flattened(self.settings))}
        settings = {k: v for k, v in flat.items() if determines(k) or k in RECORDED}
        common = [self.name, self.preset, settings, self.search, self.scheduler, self.metric]
        if self.search == "optuna":
            common += [self.axes, self.seeds, self.mode]
        elif self.scheduler == "asha" and self.mode != MODES[0]:
            common.append(self.mode)
        return hashlib.sha256(json.dumps(common, sort_keys=True).encode()).hexdigest()[:8]

    def labelled(self) -> "SweepConfig":
        """Return the sweep with the label of each given noise key in its place, to be stored."""
        axes = {
            name: [shown(name, one) for one in axis] if isinstance(axis, list) else axis
            for name, axis in self.axes.items()
        }
        primary = tuple({k: shown("", v) for k, v in one.items()} for one in self.primary)
        return replace(self, settings=labelled(self.settings), axes=axes, primary=primary)


def canonical(keys: Iterable[str]) -> set[str]:
    """Return keys of the configuration by one name each: `method.name` becomes `method`."""
    groups = {f"{group}.name": group for group in NAMED_GROUPS}
    return {groups.get(key, key) for key in keys}
