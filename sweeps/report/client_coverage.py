"""Whether coverage decides, client by client: method x hull TV among new clients of one world.

The model is log KID ~ method * hull_tv + (1 | client) + (method | world and seed), of single new
clients. Two methods adapt the same clients, so that the difference of a client's two logarithms is
free of its own intercept. The model of these differences is fitted: a line with a random intercept
for each world and seed.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sweeps.report.client_dots import ClientRows
from sweeps.report.coverage import STEP, change_text, ratio_text, rivals
from sweeps.report.groups import Group, as_number, label, pair_of
from sweeps.report.regression import Line, Point, mixed_line
from sweeps.report.tables import Cell, Table, made_table

COLUMNS = ("task", "method", "pairs", "seeds", "hull TV from", "to", "slope", "p")
COLUMNS += ("degrees of freedom", "shared by a seed", "ratio at the least", "at the greatest")
CAPTION = (
    "log(KID of the method / KID of SPIRE) of each new client, each method at its best setting in "
    "the task, chosen on the same seeds, against that client's own hull TV (0: covered). New "
    "clients of a run share backbone, number of images and steps. Slope: per 0.1 of hull TV, by a "
    "mixed model with a random intercept for each seed, whose share of the variance stands beside "
    "it (restricted maximum likelihood), with 95 % intervals that are robust to what a seed's "
    "clients have in common; n: seeds. Below zero, SPIRE is less ahead with clients that are "
    "covered worse. Within several tasks: one slope, which weighs each task by how much hull TV "
    "varies there, and an intercept for each, so that what tasks differ in does not count. p: of "
    "no slope, not corrected for several tests."
)


@dataclass(frozen=True)
class ClientLine:
    """The mixed model of one method's lead in a task, and the clients that it is of."""

    task: str
    method: str
    points: tuple[Point, ...]
    line: Line
    is_of_several: bool = False  # tasks


def client_lines(chosen: Sequence[Group], clients: ClientRows) -> list[ClientLine]:
    """Return the model of each method and task, then of all tasks of a method, where it has one.

    `chosen`: each method's best group in each task; `clients`: their new clients' scores, by run.
    """
    found: list[ClientLine] = []
    for method, pairs in rivals(chosen).items():
        points = [_points(*pair, clients, stratum) for stratum, pair in enumerate(pairs)]
        told = [(label(pair[0].task), own) for pair, own in zip(pairs, points, strict=True) if own]
        lines = [(task, tuple(own), mixed_line(own)) for task, own in told]
        found += [ClientLine(task, method, own, line) for task, own, line in lines if line]
        everything = tuple(point for _, own in told for point in own)
        if len(told) > 1 and (line := mixed_line(everything)):
            found.append(ClientLine(f"within {len(told)} tasks", method, everything, line, True))
    return found


def client_coverage_table(lines: Sequence[ClientLine]) -> Table | None:
    """Return a row for each model; None where clients' coverage is not known or does not vary."""
    rows = [_cells(one) for one in lines]
    return made_table("client_coverage", "Lead and coverage of clients", CAPTION, COLUMNS, rows)


def client_coverage_answers(lines: Sequence[ClientLine]) -> list[str]:
    """Return a sentence for each task and method that has a model."""
    return [_answer(one) for one in lines if not one.is_of_several]


def _answer(one: ClientLine) -> str:
    head = f"{one.task}: Coverage" if one.task else "Coverage"
    num_seeds = len({point.cluster for point in one.points})
    low, high = _ends(one)
    return (
        f"{head} of single new clients: the ratio of {one.method}'s KID to spire's goes by a "
        f"factor of {change_text(one.line.slope.scaled(STEP))} for each {STEP:g} of a client's "
        f"hull TV, from {low:.2g} to {high:.2g} (p {one.line.slope_p:.2g}, {len(one.points)} "
        f"clients on {num_seeds} seeds)."
    )


def _ends(one: ClientLine) -> tuple[float, float]:
    return min(point.x for point in one.points), max(point.x for point in one.points)


def _points(theirs: Group, ours: Group, clients: ClientRows, stratum: int) -> list[Point]:
    """Return a point for each client of both methods' runs on the same seeds.

    None where any of these clients lacks a score, has one that is not above zero, or had other
    numbers of steps with the two methods.
    """
    points, own = [], {pair_of(run): run for run in ours.runs}
    for run in (run for run in theirs.runs if pair_of(run) in own):
        sides = [clients.get(one.run_id, ()) for one in (run, own[pair_of(run)])]
        first, second = ({row.get("client_id"): row for row in side} for side in sides)
        if first.keys() != second.keys():
            return []
        for client, row in first.items():
            found = lead_of(row, second[client])
            if found is None:
                return []
            points.append(Point(*found, pair_of(run)[0], stratum))
    return points


def lead_of(
    theirs: Mapping[str, Any], ours: Mapping[str, Any], column: str = "kid_after"
) -> tuple[float, float] | None:
    """Return a client's hull TV, and the logarithm of their score divided by ours.

    None where one is missing or a score is not above zero, or after other or unknown steps.
    """
    numbers = ("hull_tv", "steps", column)
    hull, steps, score = (as_number(str(theirs.get(key))) for key in numbers)
    _, own_steps, own = (as_number(str(ours.get(key))) for key in numbers)
    is_fair = steps is not None and steps == own_steps
    if hull is None or score is None or own is None or min(score, own) <= 0 or not is_fair:
        return None
    return hull, math.log(score) - math.log(own)


def _cells(one: ClientLine) -> tuple[Cell, ...]:
    (low, high), line = _ends(one), one.line
    num_seeds, ends = len({point.cluster for point in one.points}), (None, None)
    if line.intercept is not None:
        ends = tuple(ratio_text(line.intercept.mean + line.slope.mean * x) for x in (low, high))
    head = (one.task, one.method, len(one.points), num_seeds, low, high, line.slope.scaled(STEP))
    return (*head, line.slope_p, round(line.freedom, 2), round(line.common, 3), *ends)
