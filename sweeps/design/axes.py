"""What an axis of a sweep may be: a list of values, or a range for a search to draw from."""

from collections.abc import Sequence
from typing import Any

from pipeline.config.load import flattened
from pipeline.config.meaning import determines
from spire_core.errors import ConfigError
from sweeps.design.settings import settings_of

RANGE_KEYS = {"min", "max", "log", "integer"}
OF_THE_SWEEP = ("tracking.", "data.root")  # all trials have those of the sweep


def check_axis(name: str, axis: Any, search: str) -> None:
    """Raise ConfigError for an axis that is no list or range, or none that this search can take."""
    if search == "optuna" and "/" in name:
        raise ConfigError(
            f"expected a name without / for an axis of search=optuna, got axes.{name}: rename it"
        )
    _check_values(name, axis, is_drawn=search != "grid")
    _check_counts(name, axis if isinstance(axis, list) else [axis["min"], axis["max"]])


def _check_values(name: str, axis: Any, is_drawn: bool) -> None:
    if isinstance(axis, dict) and is_drawn:
        both, flags = (axis.get("min"), axis.get("max")), (axis.get("log"), axis.get("integer"))
        ends = [v for v in both if isinstance(v, int | float) and not isinstance(v, bool)]
        fits = len(ends) == 2 and ends[0] < ends[1] and (ends[0] > 0 or not axis.get("log"))
        fits &= all(isinstance(flag, bool | None) for flag in flags)
        fits &= not axis.get("integer") or all(isinstance(end, int) for end in ends)
        if fits and set(axis) <= RANGE_KEYS:
            return
    elif isinstance(axis, list) and axis:
        return
    kinds = "a list of values or a range {min: A, max: B, log: true}" if is_drawn else "a list"
    first = next(iter(flattened({name: axis})), name)  # of an axis that is written as a group
    is_group = isinstance(axis, dict) and not RANGE_KEYS & axis.keys()
    advice = f"such as {first if is_group else name}: [1, 2]"
    if isinstance(axis, dict) and not is_drawn and not is_group:
        advice += ", or add search: random and num_trials: 20 for a range"
    raise ConfigError(f"expected axes.{name} as {kinds}, got {axis!r}: {advice}")


def _check_counts(name: str, values: Sequence[Any]) -> None:
    """Raise ConfigError for values of an axis that differ in nothing that determines a result."""
    seen = dict[str, dict[str, Any]]()
    for value in values:
        settings = settings_of(name, value)
        counting = {key: own for key, own in settings.items() if determines(key)}
        other = seen.setdefault(repr(sorted(counting.items())), settings)
        idle = [key for key in settings if key.startswith(OF_THE_SWEEP)]
        idle += [key for key in {**other, **settings} if other.get(key) != settings.get(key)]
        if idle:
            raise ConfigError(
                f"expected axes.{name} to vary what results depend on, got {idle[0]}, with which "
                "they stay the same: write it under settings"
            )
