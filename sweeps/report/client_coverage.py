"""Whether coverage decides, client by client: method x hull TV among new clients of one world.

The model is log KID ~ method * hull_tv + (1 | client) + (method | world and seed), of single new
clients. Two methods adapt the same clients, so that the difference of a client's two logarithms is
free of its own intercept, and is a mixed model with a random intercept for each world and seed.
"""

import math
from collections.abc import Mapping, Sequence

from sweeps.report.captions import has_text
from sweeps.report.client_dots import ClientRows
from sweeps.report.coverage import STEP, change_text, ratio_text
from sweeps.report.differences import REFERENCE
from sweeps.report.groups import Group, as_number, by_task, label, pair_of
from sweeps.report.regression import Line, Point, mixed_line
from sweeps.report.stats import Estimate
from sweeps.report.tables import Cell, Table, made_table

WITHIN = "within all tasks"
COLUMNS = ("task", "method", "clients", "seeds", "hull TV from", "to", "log ratio at hull TV 0")
COLUMNS += ("slope", "p", "shared by a seed", "ratio at the least", "at the greatest")
CAPTION = (
    "log(KID of the method / KID of SPIRE) of each new client, each method at its best setting in "
    "the task, against that client's own hull TV (0: covered). New clients of a run share "
    "backbone, images and steps. Slope: per 0.1 of hull TV, by a mixed model with a random "
    "intercept for each seed, whose share of the variance stands beside it (restricted maximum "
    "likelihood), with 95 % intervals that are robust to what a seed's clients have in common; n: "
    "seeds. Below zero, SPIRE is less ahead with clients that are covered worse. "
    f"{WITHIN.capitalize()}: one slope, and an intercept for each task, so that what tasks differ "
    "in does not count. p: of no slope, not corrected for several tests."
)


def client_coverage_table(chosen: Sequence[Group], clients: ClientRows) -> Table | None:
    """Return a row for each task and method, and one for all tasks of a method.

    None where clients' coverage is not known or does not vary. `chosen`: each method's best group
    in each task; `clients`: their new clients' scores, by run.
    """
    rows: list[tuple[Cell, ...]] = []
    for method, pairs in _rivals(chosen).items():
        points = [_points(*pair, clients, stratum) for stratum, pair in enumerate(pairs)]
        told = [(label(pair[0].task), own) for pair, own in zip(pairs, points, strict=True) if own]
        if len(told) > 1:
            told.append((WITHIN, [point for _, own in told for point in own]))
        lines = [(task, own, mixed_line(own)) for task, own in told]
        rows += [_cells(task, method, own, line) for task, own, line in lines if line is not None]
    return made_table("client_coverage", "Lead and coverage of clients", CAPTION, COLUMNS, rows)


def client_coverage_answers(table: Table | None) -> list[str]:
    """Return a sentence for each method of `client_coverage_table`, none without the table.

    Of a method with several tasks, on the slope within all of them.
    """
    if table is None:
        return []
    cells = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
    return [_answer(row) for row in {row["method"]: row for row in cells}.values()]


def _answer(row: Mapping[str, Cell]) -> str:
    slope = row["slope"]
    assert isinstance(slope, Estimate)
    place = f" {WITHIN}" if row.get("task") == WITHIN else ""
    return (
        f"Coverage of single new clients{place}: the ratio of {row['method']}'s KID to spire's "
        f"goes by a factor of {change_text(slope)} for each {STEP:g} of a client's hull TV, from "
        f"{row['hull TV from']:.2g} to {row['to']:.2g} (p {row['p']:.2g}, {row['clients']} clients "
        f"on {row['seeds']} seeds)."
    )


def _rivals(chosen: Sequence[Group]) -> dict[str, list[tuple[Group, Group]]]:
    """Return each method's group with SPIRE's, of each task where KID orders anything."""
    rivals: dict[str, list[tuple[Group, Group]]] = {}
    for here in by_task(chosen).values():
        ours = [group for group in here if group.method == REFERENCE and not has_text(here)]
        for theirs in (group for group in here if ours and group is not ours[0]):
            rivals.setdefault(theirs.method, []).append((theirs, ours[0]))
    return rivals


def _points(theirs: Group, ours: Group, clients: ClientRows, stratum: int) -> list[Point]:
    """Return a point for each client of both; none if any score is missing or not above zero."""
    points, own = [], {pair_of(run): run for run in ours.runs}
    for run in (run for run in theirs.runs if pair_of(run) in own):
        sides = [clients.get(one.run_id, ()) for one in (run, own[pair_of(run)])]
        by_id = [{row.get("client_id"): row for row in side} for side in sides]
        for client in (one for one in by_id[0] if one in by_id[1]):
            hull = as_number(str(by_id[0][client].get("hull_tv")))
            kids = [as_number(str(side[client].get("kid_after"))) for side in by_id]
            if hull is None or any(kid is None or kid <= 0 for kid in kids):
                return []
            log_ratio = math.log(kids[0] or 1) - math.log(kids[1] or 1)
            points.append(Point(hull, log_ratio, pair_of(run)[0], stratum))
    return points


def _cells(task: str, method: str, points: Sequence[Point], line: Line) -> tuple[Cell, ...]:
    low, high = min(point.x for point in points), max(point.x for point in points)
    num, start = len({point.cluster for point in points}), line.intercept
    head = (task, method, len(points), num, low, high, start if low <= 0 else None)
    ends: tuple[Cell, ...] = (None, None)
    if start is not None:
        ends = tuple(ratio_text(start.mean + line.slope.mean * x) for x in (low, high))
    return (*head, line.slope.scaled(STEP), line.slope_p, round(line.common, 3), *ends)
