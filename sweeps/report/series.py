"""Lines of the report's figures: a mean over seeds, and their range, at each place of an axis."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from statistics import fmean

from pipeline.config.meaning import reads
from spire_core.config.method import find_method
from sweeps.report.choice import best
from sweeps.report.groups import (
    RATE,
    UNSET,
    Group,
    Values,
    as_number,
    by_method,
    label,
    method_order,
    shared,
)
from sweeps.report.seed_plots import SeedRange, Series

Histories = Mapping[str, Mapping[str, Sequence[tuple[int, float]]]]  # by run, by metric


def setting_of(group: Group, key: str) -> float | None:
    """Return where a group stands on the axis of one setting; None if it has no number there."""
    value = dict(group.setting)[key]
    method = find_method(group.method)
    if key == RATE and value == UNSET and method is not None:
        return method.adapt_lr or None  # the method's own rate
    return as_number(value)


def cost_of(group: Group, key: str) -> float | None:
    """Return where a group stands on the axis of a cost; None if it has none."""
    cost = group.estimate(key)
    return None if cost is None else float(f"{cost.mean:.9g}")


def against_setting(groups: Sequence[Group], key: str, metric: str) -> list[Series]:
    """Return lines of the score over a setting's axis, each method at its best rate.

    A method has one line, through the best of its other settings at each place, where each of them
    was run at every place, or where all vary together. Otherwise it has one for each of the other
    settings that was run at several places, named by it, so that a line compares like with like.
    These lines have their method's colour and marker, unless it is alone.
    A method that does not read the setting stands at its lowest value alone.
    """
    lines: list[Series] = []
    first = min((at for g in groups if (at := setting_of(g, key)) is not None), default=None)
    methods = by_method(groups)
    for method, own in methods.items():
        record = find_method(method)
        has_place = key == RATE or record is None or reads(record, key)
        place_of = partial(setting_of, key=key) if has_place else lambda _: first
        at = _places(own, place_of, metric)
        alike: dict[Values, dict[float, list[Group]]] = {}
        for place, here in at.items():
            for group in here:
                others = tuple(chosen for chosen in shared(group) if chosen[0] != key)
                alike.setdefault(others, {}).setdefault(place, []).append(group)
        counts = {len(places) for places in alike.values()}
        style = method_order(method)[0]
        if counts in ({len(at)}, {1}):
            lines += _line(method, (style, 0), at, metric)
            continue
        several = {others: places for others, places in alike.items() if len(places) > 1}
        for number, (others, places) in enumerate(several.items()):
            look = (style, number) if len(methods) > 1 else (number, 0)
            lines += _line(f"{method}, {label(others)}", look, places, metric)
    return lines


def against_cost(groups: Sequence[Group], key: str, metric: str) -> list[Series]:
    """Return a line for each method: its score at each cost, at the best setting that costs it."""
    lines = []
    for method, own in by_method(groups).items():
        at = _places(own, partial(cost_of, key=key), metric)
        lines += _line(method, (method_order(method)[0], 0), at, metric)
    return lines


def _places(
    groups: Sequence[Group], place_of: Callable[[Group], float | None], metric: str
) -> dict[float, list[Group]]:
    """Return the groups that were scored, by their place on an axis, in its order."""
    at: dict[float, list[Group]] = {}
    for group in groups:
        if (place := place_of(group)) is not None and group.values(metric):
            at.setdefault(place, []).append(group)
    return dict(sorted(at.items()))


def _line(
    name: str, look: tuple[int, int], at: Mapping[float, Sequence[Group]], metric: str
) -> list[Series]:
    """Return a line through the best group at each place, if there is any; `look` numbers it."""
    style, variant = look
    estimates = {place: best(here, metric).estimate(metric) for place, here in at.items()}
    points = tuple((place, e.mean, e.low, e.high) for place, e in estimates.items() if e)
    return [Series(name, style, points, variant)] if points else []


def curves(
    groups: Sequence[Group],
    key: str,
    histories: Histories,
    factor: Callable[[Group], int] = lambda _: 1,
) -> list[Series]:
    """Return a metric's line for each group, at the steps that all its seeds reached.

    A step stands at `factor` times itself. A line has its method's name and look, or those of its
    setting where there is one method alone.
    """
    is_alone = len(groups) > 1 and len({group.method for group in groups}) == 1
    lines = []
    for number, group in enumerate(groups):
        by_seed = [dict(histories.get(run.run_id, {}).get(key, ())) for run in group.runs]
        by_seed = [curve for curve in by_seed if curve]
        steps = sorted(set.intersection(*map(set, by_seed))) if by_seed else []
        times = factor(group)
        points = tuple(
            _seed_range(times * step, [curve[step] for curve in by_seed]) for step in steps
        )
        if points:
            style = number if is_alone else method_order(group.method)[0]
            name = label(group.setting) if is_alone else group.method
            lines.append(Series(name, style, points))
    return lines


def _seed_range(x: float, values: Sequence[float]) -> SeedRange:
    return (x, fmean(values), min(values), max(values))
