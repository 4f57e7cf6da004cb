"""Whether a method's lead over SPIRE depends on coverage: the interaction method x hull TV.

The model is log KID ~ method * hull_tv + (1 | world and seed). Every pair of runs shares world and
seed, so that its difference is free of the random intercept, and is regressed on hull TV alone.
"""

import math
import sys
from collections.abc import Sequence

from pipeline.results.metric_names import HULL_TV
from sweeps.report.captions import has_text
from sweeps.report.differences import REFERENCE
from sweeps.report.groups import Group, Pair, by_task, label, pair_of
from sweeps.report.regression import Line, Point, fitted_line
from sweeps.report.stats import Estimate, log_ratios
from sweeps.report.tables import Cell, Table, made_table

KID = "final/adapt_kid_after"
STEP = 0.1  # of hull TV, by which a slope is told
LARGEST_LOG = math.log(sys.float_info.max)
CAPTION = (
    "log(KID of the method / KID of SPIRE) of new clients, each method at its best setting in each "
    "task, against how far the pre-training clients leave the new ones uncovered (hull TV, 0: "
    "covered). A line through all pairs of the same world and seed, without worlds where a KID is "
    "not above zero, with 95 % intervals that are robust to what a seed's pairs have in common; "
    "n: seeds. Log ratio at hull TV 0: only where some world has it. "
    "Slope: per 0.1 of hull TV; below zero, SPIRE loses where coverage is worse. Tasks that differ "
    "in more than coverage leave open what makes the slope. p: of no slope, not corrected for "
    "several tests."
)


def coverage_table(chosen: Sequence[Group]) -> Table | None:
    """Return a row for each method; None where coverage or seeds do not vary.

    `chosen`: each method's best group in each task.
    """
    rows: list[tuple[Cell, ...]] = []
    for method, points in _points(chosen).items():
        if (line := fitted_line(points)) is not None:
            rows.append((method, *_cells(points, line)))
    columns = ("method", "pairs", "seeds", "hull TV from", "to", "log ratio at hull TV 0")
    columns += ("slope", "p", "ratio at the least", "at the greatest", "equal at hull TV")
    return made_table("coverage", "Lead and coverage", CAPTION, columns, rows)


def coverage_answers(table: Table | None, chosen: Sequence[Group]) -> list[str]:
    """Return a sentence for each method of `coverage_table`, none without the table."""
    if table is None:
        return []
    methods = [{group.method for group in here} for here in by_task(chosen).values()]
    num_tasks = sum(REFERENCE in here and len(here) > 1 for here in methods)
    place = "Coverage" if num_tasks == 1 else f"Coverage and what else {num_tasks} tasks differ in"
    return [_answer(place, dict(zip(table.columns, row, strict=True))) for row in table.rows]


def _answer(place: str, row: dict[str, Cell]) -> str:
    slope = row["slope"]
    assert isinstance(slope, Estimate)
    return (
        f"{place}: from hull TV {row['hull TV from']:.2g} to {row['to']:.2g}, the ratio of "
        f"{row['method']}'s KID to spire's goes from {row['ratio at the least']} to "
        f"{row['at the greatest']}, by a factor of {change_text(slope)} for each {STEP:g} "
        f"(p {row['p']:.2g}, {row['pairs']} pairs on {row['seeds']} seeds)."
    )


def coverage_notes(chosen: Sequence[Group]) -> list[str]:
    """Return a note of the tasks that a method's line lacks, because of a KID that has no ratio."""
    notes = []
    for method, pairs in rivals(chosen).items():
        gone = [label(pair[0].task) for pair in pairs if _has_no_ratio(*pair)]
        if gone and len(pairs) > 1:
            notes.append(
                f"Lead and coverage: {method} is compared without {'; '.join(gone)}, where a KID "
                "is not above zero."
            )
    return notes


def rivals(chosen: Sequence[Group]) -> dict[str, list[tuple[Group, Group]]]:
    """Return each method's group with SPIRE's, of each task where KID orders anything."""
    found: dict[str, list[tuple[Group, Group]]] = {}
    for here in by_task(chosen).values():
        ours = [group for group in here if group.method == REFERENCE and not has_text(here)]
        for theirs in (group for group in here if ours and group is not ours[0]):
            found.setdefault(theirs.method, []).append((theirs, ours[0]))
    return found


def _points(chosen: Sequence[Group]) -> dict[str, list[Point]]:
    """Return each method's pairs with SPIRE, over all tasks: hull TV, log ratio, seed."""
    return {
        method: [point for pair in pairs for point in _pairs(*pair)]
        for method, pairs in rivals(chosen).items()
    }


def _pairs(theirs: Group, ours: Group) -> list[Point]:
    hull = _hull_tv(theirs) | _hull_tv(ours)
    leads = log_ratios(theirs.values(KID), ours.values(KID))
    return [Point(hull[pair], lead, pair[0]) for pair, lead in leads.items() if pair in hull]


def _has_no_ratio(theirs: Group, ours: Group) -> bool:
    both = theirs.values(KID).keys() & ours.values(KID).keys()
    known = both & (_hull_tv(theirs) | _hull_tv(ours)).keys()
    return bool(known) and not _pairs(theirs, ours)


def _hull_tv(group: Group) -> dict[Pair, float]:
    return {pair_of(run): float(run.tags[HULL_TV]) for run in group.runs if HULL_TV in run.tags}


def _cells(points: Sequence[Point], line: Line) -> tuple[Cell, ...]:
    low, high = min(point.x for point in points), max(point.x for point in points)
    assert line.intercept is not None  # of one stratum
    start, slope = line.intercept, line.slope.mean
    ends = (ratio_text(start.mean + slope * x) for x in (low, high))
    crossing = -start.mean / slope if slope else math.nan
    equal = f"{crossing:.2g}" if low <= crossing <= high else None
    num = len({point.cluster for point in points})
    # The line ends where the points do.
    head = (len(points), num, low, high, start if low <= 0 else None, line.slope.scaled(STEP))
    return (*head, line.slope_p, *ends, equal)


def change_text(slope: Estimate) -> str:
    """Return the factor of a ratio and its interval, of the slope of its logarithm."""
    half = slope.half_width or 0.0
    ends = (ratio_text(slope.mean + end) for end in (-half, half))
    return f"{ratio_text(slope.mean)} [{', '.join(ends)}]"


def ratio_text(log: float) -> str:
    """Return a ratio in three digits, of its logarithm."""
    return f"{math.exp(log) if log < LARGEST_LOG else math.inf:.3g}"
