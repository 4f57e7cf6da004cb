"""Finished experiments of a sweep, grouped: by task, method and setting, with the seeds inside.

What varies is found in the runs' own parameters. A parameter of the task (data, partition, how much
is measured) makes scores that cannot be compared, so each task has tables and figures of its own;
any other parameter is a setting that a method may choose.
"""

import math
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from pipeline.config.data import DATASETS
from pipeline.config.meaning import reads
from pipeline.results.metric_names import (
    CLIENTS_DELTA,
    CLIENTS_EPSILON,
    DELTA,
    EPSILON,
    NN_CHANCE,
    NN_EXCESS,
    NN_P,
    NN_SHARE,
)
from pipeline.results.params import default_params
from pipeline.tracking.mlflow_queries import TrackedRun, is_known
from spire_core.config.method import OTHER_METHODS, find_method
from spire_core.methods import METHODS
from sweeps.primary import HELDOUT, TARGET, TASK
from sweeps.report.stats import Estimate, combined_p, estimate, greatest

UNSET = "None"  # how a setting that is not given is logged
IGNORED = ("seed", "method.name", "resources.", "tracking.", "data.root", "data.path")
IGNORED += ("world.",)  # it follows from the partition
IGNORED += ("eval.extractor_weights", "eval.grid_images", "eval.controls")
# How much is computed at once sets a method's runs apart, and no method from another.
AT_ONCE = ("client.group_size", "adapt.group_size", "eval.batch_size")
# They stand among a task's parameters, though they are logged as tags.
EXTRACTOR, IMAGES = "extractor", "images"
BY_HASH = {"model.backbone": "backbone_hash", "model.text_encoder": "text_hash"}  # of a folder
RATE = "adapt.lr"
# Settings of a method: they choose its best, and others need not agree.
OF_ADAPTATION = (RATE, "adapt.tune_epochs", "privacy.adapt.")
OWN = ("method.", *OF_ADAPTATION)
NN_GAP = "final/adapt_nn_gap"  # worked out here: each run's distance to training minus test images
MINUS = {  # what is worked out here, and of which two metrics it is the difference
    NN_GAP: ("final/adapt_nn_train", "final/adapt_nn_test"),
    NN_EXCESS: (NN_SHARE, NN_CHANCE),
}
TUNED_KID = "final/pretrain_tuned_kid_mean"
OWN_KID = "final/pretrain_own_kid"  # likewise: that of fine-tuned models, where clients have tuned
SCORES = {  # by which a best setting is chosen: the first that any run has
    "final/adapt_style_distance_after": "new clients' final distance to the true images",
    "final/adapt_kid_after": "new clients' final KID",
    "final/pretrain_kid_mean": "pre-training clients' KID after the last round",
    HELDOUT: "new clients' final held-out loss",
}
PROMISES = (EPSILON, DELTA, CLIENTS_EPSILON, CLIENTS_DELTA)
NO_MEANS = {NN_P: combined_p, **dict.fromkeys(PROMISES, greatest)}  # of several seeds

Values = tuple[tuple[str, str], ...]  # parameters that vary, with one choice of their values
Pair = tuple[int, str]  # a seed, and the hash of the partition that it gave
Scores = Mapping[Pair, float]
Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class Group:
    """One method at one setting of one task: a run for each seed, in the order of seeds."""

    task: Values
    method: str
    setting: Values
    runs: tuple[TrackedRun, ...]

    def values(self, key: str) -> dict[Pair, float]:
        """Return a metric's final value by seed, of the runs that have it."""
        if key in MINUS:
            first, second = (self.values(own) for own in MINUS[key])
            return {pair: first[pair] - second[pair] for pair in first if pair in second}
        if key == OWN_KID:
            return self.values("final/pretrain_kid_mean") | self.values(TUNED_KID)
        known = [run for run in self.runs if is_known(run.finals.get(key))]
        return {pair_of(run): run.finals[key] for run in known}

    def estimate(self, key: str) -> Estimate | None:
        """Return a metric's mean over seeds, or as `NO_MEANS` has it; None if no run has it."""
        values = list(self.values(key).values())
        summary = NO_MEANS.get(key, estimate)
        return summary(values, missing=len(self.runs) - len(values))


def method_of(run: TrackedRun) -> str | None:
    """Return a run's method; None for a run that is no experiment."""
    return run.params.get("method.name", run.tags.get("method"))


def seed_of(run: TrackedRun) -> int:
    """Return a run's seed."""
    return int(run.params.get("seed", run.tags.get("seed", "0")))


def pair_of(run: TrackedRun) -> Pair:
    """Return what two runs have to share to be compared as a pair."""
    return (seed_of(run), run.tags.get("partition_hash", ""))


def parameters(run: TrackedRun) -> dict[str, str]:
    """Return what may set a run apart: its method's parameters, its images and its extractor."""
    method = find_method(method_of(run) or "")
    params = {
        key: value
        for key, value in run.params.items()
        if not key.startswith(IGNORED) and (method is None or reads(method, key))
    }
    if EXTRACTOR in run.tags:
        sha256 = run.tags.get("extractor_hash", "")
        params[EXTRACTOR] = f"{run.tags[EXTRACTOR]} {sha256[:8]}".strip()
    if params.get("data.name") not in DATASETS and "data_hash" in run.tags:  # others' names say all
        params[IMAGES] = run.tags["data_hash"][:8]
    return {key: run.tags.get(tag, "")[:8] or UNSET for key, tag in BY_HASH.items()} | params


def whole(run: TrackedRun) -> TrackedRun:
    """Return a run with all settings among its params: one that is none has its default value."""
    return replace(run, params={**default_params(), **run.params})


def varying(runs: Sequence[TrackedRun]) -> list[str]:
    """Return the parameters that differ over the runs, of each those runs that logged it."""
    seen: dict[tuple[str, str | None], set[str]] = {}
    for run in runs:
        for key, value in parameters(run).items():
            among = method_of(run) if key in AT_ONCE else None
            seen.setdefault((key, among), set()).add(value)
    return sorted({key for (key, _), values in seen.items() if len(values) > 1})


def group_runs(runs: Sequence[TrackedRun]) -> list[Group]:
    """Return experiments in groups; of one that was run twice on the same seed, the later run."""
    keys = varying(runs)
    of_task = [key for key in keys if key.startswith((*TASK, EXTRACTOR, IMAGES))]
    with_loss = [key for key in keys if key in of_task or key.startswith(TARGET)]
    has_more = {_chosen(run, of_task) for run in runs if _has_features(run)}  # than a loss
    by_place: dict[tuple[Values, str, Values], dict[int, TrackedRun]] = {}
    for run in sorted(runs, key=lambda run: run.started_ms):
        own = of_task if _chosen(run, of_task) in has_more else with_loss
        rest = [key for key in keys if key not in own]
        place = (_chosen(run, own), method_of(run) or "", _chosen(run, rest))
        by_place.setdefault(place, {})[seed_of(run)] = run
    groups = [Group(*at, tuple(seeds[s] for s in sorted(seeds))) for at, seeds in by_place.items()]
    return sorted(groups, key=_order)


def _has_features(run: TrackedRun) -> bool:
    """Return whether a run has a score beside its losses."""
    return any(is_known(run.finals.get(key)) for key in SCORES if key != HELDOUT)


def _chosen(run: TrackedRun, keys: Iterable[str]) -> Values:
    params = parameters(run)
    return tuple((key, params.get(key, UNSET)) for key in keys)


def _order(group: Group) -> tuple:
    return (sortable(group.task), method_order(group.method), sortable(group.setting))


def method_order(method: str) -> tuple[int, str]:
    """Return a method's place among all: ours, those of other packages, and unknown ones."""
    known = list(METHODS)
    if method not in known:
        known += OTHER_METHODS.names()
    return (known.index(method) if method in known else len(known), method)


def sortable(values: Values) -> list[tuple[float, str]]:
    """Return a key by which what is not given comes first, and 8 before 16."""
    numbers = {text: as_number(text) for _, text in values}
    return [(-math.inf if (n := numbers[text]) is None else n, text) for _, text in values]


def as_number(text: str) -> float | None:
    """Return a parameter's text as a number; None if it is none."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if is_known(value) else None


def label(values: Values) -> str:
    """Return the choices in words, such as `tau=3, adapt.lr=0.02`, without those not given."""
    choices = [
        f"{key.removeprefix('federation.')}={value}" for key, value in values if value != UNSET
    ]
    return ", ".join(choices) or ("defaults" if values else "")


def without(group: Group, prefixes: tuple[str, ...]) -> Values:
    """Return a group's settings without those whose names begin with one of the prefixes."""
    return tuple(choice for choice in group.setting if not choice[0].startswith(prefixes))


def shared(group: Group) -> Values:
    """Return the settings in which other methods can agree with a group."""
    return without(group, OWN)


def by_task(groups: Iterable[Group]) -> dict[Values, list[Group]]:
    """Return the groups of each task, in their order."""
    return gathered(groups, lambda group: group.task)


def by_method(groups: Iterable[Group]) -> dict[str, list[Group]]:
    """Return the groups of each method, in their order."""
    return gathered(groups, lambda group: group.method)


def gathered(groups: Iterable[Group], key: Callable[[Group], Key]) -> dict[Key, list[Group]]:
    """Return the groups by what `key` says of each, in their order."""
    by_key: dict[Key, list[Group]] = {}
    for group in groups:
        by_key.setdefault(key(group), []).append(group)
    return by_key
