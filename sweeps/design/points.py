"""The points of a sweep's axes, and the trial at each of them.

A point has a value on each axis. A search draws it as `TuneParams`, where a value from a list is
given by its position.
"""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.config.load import flattened, load_config, read_words, write_value
from pipeline.config.meaning import (
    determines,
    fingerprint,
    pretrain_fingerprint,
    reads,
    say_without_effect,
    without_effect,
)
from pipeline.config.schema import Config
from pipeline.federation.setup import partitioned
from pipeline.results.params import default_params, params_of
from spire_core.config.checks import require
from spire_core.config.privacy import refuse_label
from spire_core.errors import DataError
from spire_core.federated.messages import steps_per_epoch
from sweeps.design.config import SweepConfig, labelled, point_of, settings_of
from sweeps.primary import primaries

TuneParams = dict[str, Any]  # with which Tune starts a trial: an id, or a drawn point


@dataclass(frozen=True)
class Trial:
    """One experiment of a sweep: `spire run PRESET OVERRIDES` would be the same.

    `trial_id`: hash of the resolved configuration, so that equivalent points are the same trial.
    Paths are in it as they were typed. `point` has its values on the axes, by key of the
    configuration. It and `overrides` have the label of a given noise key, which the configuration
    alone has.
    """

    trial_id: str
    config: Config
    overrides: tuple[str, ...]
    point: dict[str, Any]

    @property
    def label(self) -> str:
        """The method, the values on the axes and the seed, for people."""
        parts = [self.config.method.name]
        parts += [f"{k.split('.')[-1]}={v}" for k, v in self.point.items() if k != "method"]
        return " ".join([*parts, f"seed={self.config.seed}"])


def trials(sweep: SweepConfig, points: Sequence[Mapping[str, Any]] | None = None) -> list[Trial]:
    """Return the trials at these points, or at those of a grid, each once.

    Equivalent points are one trial. Those that share their pre-training with an earlier one come
    last, so that it has ended when they begin. ConfigError if a trial's configuration is wrong.
    """
    if points is None:
        values = itertools.product(*sweep.axes.values())
        points = [dict(zip(sweep.axes, one, strict=True)) for one in values]
    unique: dict[str, Trial] = {}
    for point, seed in itertools.product(points, sweep.seeds):
        trial = make_trial(sweep, point, seed)
        known = unique.setdefault(trial.trial_id, trial)
        # Equivalent points differ only in axes that their method ignores, which are left out.
        common = {k: v for k, v in known.point.items() if trial.point.get(k) == v}
        unique[trial.trial_id] = dataclasses.replace(known, point=common)
    first, later, begun = list[Trial](), list[Trial](), set[str]()
    for trial in _without_equal_rounds([*unique.values()]):
        is_federated = trial.config.method.record.is_federated
        pretraining = pretrain_fingerprint(trial.config) if is_federated else trial.trial_id
        (later if pretraining in begun else first).append(trial)
        begun.add(pretraining)
    return [*first, *later]


def _without_equal_rounds(found: Sequence[Trial]) -> list[Trial]:
    """Return trials without those whose passes are as many steps as an earlier one's tau.

    A client takes the same batches either way. Data that have not been fetched tell nothing.
    """
    if len({trial.config.federation.tau is None for trial in found}) < 2:
        return [*found]
    kept, known = dict[str, Trial](), dict[Any, set[int]]()
    for trial in found:
        config, federation = trial.config, trial.config.federation
        if federation.local_epochs is not None and config.method.record.is_federated:
            place = (config.data, config.partition, federation.num_clients, config.seed)
            if place not in known:
                known[place] = _train_sizes(config)
            steps = {steps_per_epoch(size, config.client.batch_size) for size in known[place]}
            if len(steps) == 1:
                tau = federation.local_epochs * steps.pop()
                federation = dataclasses.replace(federation, tau=tau, local_epochs=None)
        same = fingerprint(dataclasses.replace(config, federation=federation))
        kept.setdefault(same, trial)
    return [*kept.values()]


def _train_sizes(config: Config) -> set[int]:
    try:
        return {*partitioned(config)[1].train_sizes}
    except DataError:
        return set()


def make_trial(sweep: SweepConfig, point: Mapping[str, Any], seed: int) -> Trial:
    """Return the trial at one point of the axes; ConfigError if its configuration is wrong."""
    on_axes = {k: v for name, value in point.items() for k, v in point_of(name, value).items()}
    settings = {**settings_of(sweep.settings), **on_axes, "seed": seed}
    config = load_config(sweep.preset, _words(settings))
    words = _words(labelled(settings))
    return Trial(fingerprint(config)[:12], config, words, labelled(on_axes))


def _words(settings: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(f"{key}={write_value(value)}" for key, value in settings.items())


def trial_of(sweep: SweepConfig, params: TuneParams) -> Trial:
    """Return the trial that drawn parameters stand for, of which numbers get few digits."""
    point = {
        name: axis[params[name]] if isinstance(axis, list) else _rounded(axis, params[name])
        for name, axis in sweep.axes.items()
    }
    [trial] = trials(sweep, [point])
    return trial


def _rounded(axis: Mapping[str, Any], value: float) -> float:
    if axis.get("integer"):
        return round(value)
    return min(max(float(f"{value:.4g}"), axis["min"]), axis["max"])


def probes(sweep: SweepConfig) -> list[Trial]:
    """Return trials that have, together, every value of a list and both ends of every range.

    A mistake in a point that a search could draw shows in them before the search starts.
    """
    ends = {n: a if isinstance(a, list) else [a["min"], a["max"]] for n, a in sweep.axes.items()}
    base = {name: values[0] for name, values in ends.items()}
    points = [{**base, name: value} for name, values in ends.items() for value in values]
    return trials(sweep, points or [base])


def check_effects(found: Sequence[Trial]) -> None:
    """Name each setting that has no effect in any trial which has it.

    One that counts in some of them, such as the noise of an axis of budgets that ends with none, is
    no mistake. ConfigError for one of privacy, and for the label of a noise key in its place.
    """
    faults, counting = dict[str, str](), set[str]()
    for trial in found:
        refuse_label(trial.config.privacy)
        idle, method = without_effect(trial.config, trial.overrides), trial.config.method.record
        faults |= {key: fault for key, fault in idle.items() if determines(key)}
        typed = flattened(read_words(trial.overrides))
        counting |= {key for key in typed if key not in idle and reads(method, key)}
    say_without_effect({key: fault for key, fault in faults.items() if key not in counting})


def check_compared(sweep: SweepConfig) -> None:
    """Raise ConfigError for a comparison in a grid of which a side has no trial."""
    if sweep.is_drawn or not sweep.primary:
        return
    one_seed = dataclasses.replace(sweep, seeds=sweep.seeds[:1])
    runs = [run_of(trial.config) for trial in trials(one_seed)]
    for one in primaries(sweep.primary):
        for method in (one.method, one.against):
            expected = f"trials of {method} for the primary comparison of {one.words}"
            advice = "change its where, or add them to the sweep"
            require(any(one.fits(method, run) for run in runs), expected, "none", advice)


def run_of(config: Config) -> dict[str, str]:
    """Return all params of a run with a configuration."""
    return {**default_params(), **{key: str(value) for key, value in params_of(config).items()}}
