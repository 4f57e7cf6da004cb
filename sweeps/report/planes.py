"""Scores over two settings at once: where a method passes SPIRE.

A plane is spanned by two numbers that were both varied, such as pre-training clients and rounds.
In each cell stands a method minus SPIRE, paired on seeds, each at its best remaining settings.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from sweeps.report.choice import best
from sweeps.report.differences import REFERENCE
from sweeps.report.figures import Picture
from sweeps.report.groups import OWN, SCORES, Group, as_number
from sweeps.report.heat_maps import Grid, grids_figure
from sweeps.report.stats import Estimate, paired, verdict
from sweeps.report.tables import COMPARED, Cell, Table, compared, made_table

PLANE = (
    "Each method minus SPIRE on {score}, paired on seeds, mean and 95 % interval; above zero SPIRE "
    "is ahead. Each is at its best remaining settings."
)
Place = tuple[float, ...]


def places(groups: Sequence[Group], metric: str) -> tuple[list[str], dict[str, dict[Place, Group]]]:
    """Return the numbers that span the groups, and each method's best group at each place.

    Only numbers that SPIRE and another method were both run at two values of.
    """
    choices = [dict(group.task) | dict(group.setting) for group in groups]
    keys = [k for k in dict.fromkeys(k for t in choices for k in t) if not k.startswith(OWN)]
    spanning = [key for key in keys if _is_varied(groups, choices, key)]
    groups_at: dict[str, dict[Place, list[Group]]] = {}
    for group, values in zip(groups, choices, strict=True):
        numbers = [as_number(values[key]) for key in spanning]
        place = tuple(number for number in numbers if number is not None)
        if len(place) == len(spanning) and group.values(metric):
            groups_at.setdefault(group.method, {}).setdefault(place, []).append(group)
    return spanning, {
        method: {place: best(several, metric) for place, several in at.items()}
        for method, at in groups_at.items()
    }


def _is_varied(groups: Sequence[Group], choices: Sequence[Mapping[str, str]], key: str) -> bool:
    values: dict[str, set[float]] = {}
    for group, own in zip(groups, choices, strict=True):
        if (number := as_number(own[key])) is not None:
            values.setdefault(group.method, set()).add(number)
    ours = values.pop(REFERENCE, set())
    return any(len(ours & theirs) > 1 for theirs in values.values())


def differences(
    groups: Sequence[Group], metric: str
) -> tuple[list[str], dict[str, dict[Place, Estimate]]]:
    """Return the two numbers that span a plane, and each method minus SPIRE at its places.

    Nothing at all where other than two numbers were varied, or anything else of the task.
    """
    spanning, groups_at = places(groups, metric)
    tasks = {tuple(v for v in group.task if v[0] not in spanning) for group in groups}
    if len(spanning) != 2 or REFERENCE not in groups_at or len(tasks) > 1:
        return [], {}
    ours = groups_at.pop(REFERENCE)
    by_method: dict[str, dict[Place, Estimate]] = {}
    for method, theirs in groups_at.items():
        for place in sorted(theirs.keys() & ours.keys()):
            difference = paired(theirs[place].values(metric), ours[place].values(metric))
            if difference is not None:
                by_method.setdefault(method, {})[place] = difference
    return spanning, by_method


def plane_table(groups: Sequence[Group], metric: str) -> Table | None:
    """Return the differences against SPIRE place by place; None without a plane."""
    keys, by_method = differences(groups, metric)
    rows: list[tuple[Cell, ...]] = [
        (method, *(f"{number:g}" for number in place), *compared(difference))
        for method, at in by_method.items()
        for place, difference in at.items()
    ]
    columns, text = ("method", *keys, *COMPARED), PLANE.format(score=SCORES[metric])
    return made_table("plane", "Differences over the plane", text, columns, rows)


def plane_picture(groups: Sequence[Group], metric: str) -> Picture | None:
    """Return the differences against SPIRE as heat maps, one for each method."""
    keys, by_method = differences(groups, metric)
    if not by_method:
        return None
    grids = [_plane(method, at) for method, at in by_method.items()]
    ylabels = [keys[0]] + [""] * (len(grids) - 1)
    number = f"{SCORES[metric]} minus SPIRE's"
    figure = grids_figure(grids, keys[1], ylabels, number, is_signed=True)
    text = PLANE.format(score=SCORES[metric]) + " A star marks an interval that excludes zero."
    return Picture("plane", "Where SPIRE is passed", text, figure)


def _plane(method: str, at: Mapping[Place, Estimate]) -> Grid:
    rows, columns = (sorted({place[axis] for place in at}) for axis in (0, 1))
    values = np.full((len(rows), len(columns)), np.nan)
    texts = [[""] * len(columns) for _ in rows]
    for (row, column), difference in at.items():
        i, j = rows.index(row), columns.index(column)
        values[i, j] = difference.mean
        star = "*" if verdict(difference) != "cannot tell" else ""
        interval = "" if difference.half_width is None else f"\n± {difference.half_width:.2g}"
        texts[i][j] = f"{difference.mean:+.2g}{star}{interval}"
    return Grid(
        f"{method} minus SPIRE",
        tuple(f"{row:g}" for row in rows),
        tuple(f"{column:g}" for column in columns),
        values,
        tuple(map(tuple, texts)),
    )
