"""The points of a sweep's axes, and the trial at each of them.

A point has a value on each axis. Tune and the ledger have it as `TuneParams`, where a value from a
list is given by its position.
"""

import dataclasses
import itertools
import json
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.config.load import flattened, load_config, write_value
from pipeline.config.meaning import fingerprint, pretrain_fingerprint
from pipeline.config.schema import Config
from spire_core.rng import numpy_generator
from sweeps.design.config import SweepConfig
from sweeps.design.metric import check_searched, check_watched
from sweeps.design.settings import labelled, relative_paths, settings_of, with_absolute_path
from sweeps.primary import TASK

TuneParams = dict[str, Any]  # with which Tune starts a trial: an id, or a drawn point


@dataclass(frozen=True)
class Trial:
    """One experiment of a sweep: `spire run PRESET OVERRIDES` would be the same.

    `point` has its values on the axes, by key of the configuration. It and `overrides` have the
    label of a given noise key, which the configuration alone has. `shares_pretraining`: another
    trial, of this sweep or another, may have the same pre-training.
    """

    config: Config
    preset: str
    overrides: tuple[str, ...]
    point: dict[str, Any]
    shares_pretraining: bool = False

    @property
    def trial_id(self) -> str:
        """Hash of the resolved configuration, so that equivalent points are the same trial."""
        return fingerprint(self.config)[:12]

    @property
    def label(self) -> str:
        """The method, the values on the axes and the seed, for people."""
        parts = [self.config.method.name]
        parts += [f"{k.split('.')[-1]}={_short(v)}" for k, v in self.point.items() if k != "method"]
        return " ".join([*parts, f"seed={self.config.seed}"])


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def trials(sweep: SweepConfig, points: Sequence[Mapping[str, Any]] | None = None) -> list[Trial]:
    """Return the trials at these points, or at the sweep's own, each once.

    Equivalent points are one trial. The trials of a task stand together, so that a sweep that is
    stopped has whole comparisons. Among them, those that share their pre-training with an earlier
    one come last, so that it has ended when they begin; a search's draws may share it with later
    draws. Raises ConfigError if a trial's configuration is wrong.
    """
    if points is None:
        points = _grid(sweep) if sweep.search == "grid" else _random(sweep)
    unique: dict[str, Trial] = {}
    for point, seed in itertools.product(points, sweep.seeds):
        trial = make_trial(sweep, point, seed)
        trial_id = trial.trial_id  # of all settings: most of the work for a point
        known = unique.setdefault(trial_id, trial)
        # Equivalent points differ only in axes that their method ignores, which are left out.
        common = {k: v for k, v in known.point.items() if trial.point.get(k) == v}
        unique[trial_id] = dataclasses.replace(known, point=common)
    by_pretraining: dict[str, list[Trial]] = {}
    for trial in unique.values():
        record = trial.config.method.record
        common = pretrain_fingerprint(trial.config) if record.is_federated else trial.trial_id
        by_pretraining.setdefault(common, []).append(trial)
    with_others = sweep.share_pretraining == "root" or sweep.search == "optuna"
    groups = [
        [_sharing(trial, with_others or len(group) > 1) for trial in group]
        for group in by_pretraining.values()
    ]
    found = [group[0] for group in groups] + [t for group in groups for t in group[1:]]
    tasks = [*dict.fromkeys(_task(trial) for trial in unique.values())]
    return sorted(found, key=lambda trial: tasks.index(_task(trial)))


def _task(trial: Trial) -> tuple[str, ...]:
    """Return the settings without which scores of two trials cannot be compared."""
    settings = flattened(trial.config.as_dict()).items()
    return tuple(f"{key}={value}" for key, value in settings if key.startswith(TASK))


def _sharing(trial: Trial, shares: bool) -> Trial:
    shares &= trial.config.method.record.is_federated
    return dataclasses.replace(trial, shares_pretraining=shares)


def make_trial(sweep: SweepConfig, point: Mapping[str, Any], seed: int) -> Trial:
    """Return the trial at one point of the axes; ConfigError if its configuration is wrong."""
    flat = {k: v for name, value in point.items() for k, v in settings_of(name, value).items()}
    fixed = with_absolute_path({**flattened(sweep.settings), **flat, "seed": seed})
    config = load_config(sweep.preset, _overrides(fixed))
    if of_preset := relative_paths(config):
        fixed = {**fixed, **of_preset}
        config = load_config(sweep.preset, _overrides(fixed))
    if sweep.search == "optuna" or sweep.scheduler == "asha":
        check_searched(sweep.metric, config)
    if sweep.scheduler == "asha":
        check_watched(config)
    return Trial(config, sweep.preset, _overrides(labelled(fixed)), labelled(flat))


def _overrides(settings: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(f"{key}={write_value(value)}" for key, value in settings.items())


def point_of(sweep: SweepConfig, params: Mapping[str, Any]) -> dict[str, Any]:
    """Return the point of the axes that drawn parameters stand for."""
    return {
        name: axis[params[name]] if isinstance(axis, list) else _rounded(axis, params[name])
        for name, axis in sweep.axes.items()
    }


def is_drawn_from(sweep: SweepConfig, params: Mapping[str, Any]) -> bool:
    """Return whether parameters have a position or a finite number for each of the sweep's axes."""
    return params.keys() == sweep.axes.keys() and all(
        _is_on(axis, params[name]) for name, axis in sweep.axes.items()
    )


def _is_on(axis: Any, value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    if isinstance(axis, list):
        return isinstance(value, int) and 0 <= value < len(axis)
    return math.isfinite(value)


def probes(sweep: SweepConfig) -> list[Trial]:
    """Return trials that have, together, every value of a list and both ends of every range.

    A mistake in a point that a search could draw shows in them before the search starts. Raises
    ConfigError for such a mistake, also between the ends, such as 8.5 for a whole number.
    """
    trials(sweep, _random(sweep))
    base = first_point(sweep)
    points = [{**base, n: value} for n, axis in sweep.axes.items() for value in _ends(axis)]
    return trials(sweep, points or [base])


def likely(sweep: SweepConfig, num_points: int) -> list[Trial]:
    """Return trials at random points, as an untrained search would draw them."""
    return trials(sweep, _random(sweep)[:num_points])


def first_point(sweep: SweepConfig) -> dict[str, Any]:
    """Return the point with each axis's first value."""
    return {name: _ends(axis)[0] for name, axis in sweep.axes.items()}


def points_apart(sweep: SweepConfig, keys: Collection[str]) -> Iterator[dict[str, Any]]:
    """Yield a point for each combination of values that these settings have on the axes."""
    apart = []
    for name, axis in sweep.axes.items():
        by_values = dict[str, Any]()
        for value in _ends(axis):
            values = {k: v for k, v in settings_of(name, value).items() if k in keys}
            by_values.setdefault(json.dumps(values, sort_keys=True), value)
        apart.append(by_values.values())
    for values in itertools.product(*apart):
        yield dict(zip(sweep.axes, values, strict=True))


def _ends(axis: Any) -> list[Any]:
    return axis if isinstance(axis, list) else [axis["min"], axis["max"]]


def _grid(sweep: SweepConfig) -> list[dict[str, Any]]:
    combinations = itertools.product(*sweep.axes.values())
    return [dict(zip(sweep.axes, values, strict=True)) for values in combinations]


def _random(sweep: SweepConfig) -> list[dict[str, Any]]:
    """Return points drawn independently; the first n are the same whatever `num_trials` is."""
    points = []
    for i in range(sweep.num_trials or 0):
        rng = numpy_generator(0, "random_search", i)
        points.append({name: _draw(axis, rng.random()) for name, axis in sweep.axes.items()})
    return points


def _draw(axis: Any, u: float) -> Any:
    """Return the value of an axis at a fraction u in [0, 1) of its range or list."""
    if isinstance(axis, list):
        return axis[int(u * len(axis))]
    low, high, is_whole = axis["min"], axis["max"], axis.get("integer")
    end = high + 1 if is_whole else high  # each whole number has the values up to the next one
    value = low * (end / low) ** u if axis.get("log") else low + (end - low) * u
    return min(math.floor(value), high) if is_whole else _rounded(axis, value)


def _rounded(axis: Mapping[str, Any], value: float) -> float:
    """Return a drawn value with few digits, inside the axis' range."""
    if axis.get("integer"):
        return round(value)
    return min(max(float(f"{value:.4g}"), axis["min"]), axis["max"])
