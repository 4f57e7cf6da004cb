"""The numbers of pages, worked out from a study's rows: statistics, and Holm's correction."""

import math
from collections.abc import Callable, Hashable, Mapping, Sequence

from benchmarks.published import Published
from benchmarks.published_scores import by_seed, paired_clients, score_of
from spire_core.errors import DataError
from sweeps.report.client_coverage import lead_of
from sweeps.report.coverage import STEP
from sweeps.report.regression import Line, Point, mixed_line
from sweeps.report.row_runs import Row
from sweeps.report.stats import Estimate, equivalence_p, estimate, holm, paired, two_sided_p

CORRECTED = ("holm", "difference_holm", "equivalence")  # for their number
SAME_P = 1e-6  # the share by which two p-values of one test may differ
Families = Mapping[str, Mapping[bool, Sequence[float | None]]]  # by name and whether equivalence


def _compared(rows: Sequence[Row], one: Published, is_log: bool) -> Estimate:
    sides = [by_seed(rows, side) for side in (one, one.other)]
    if is_log:
        both = sides[0].keys() & sides[1].keys()
        if any(side[pair] <= 0 for side in sides for pair in both):
            raise DataError(f"expected scores above zero for a ratio of {one.measure}, got others")
        sides = [{pair: math.log(side[pair]) for pair in both} for side in sides]
    difference = paired(*sides)
    if difference is None:
        raise DataError(f"expected seeds that {one.method} and {one.against} share, got none")
    return difference


def _num_above(rows: Sequence[Row], one: Published) -> float:
    """Return of how many new clients a line's score is higher with its method."""
    scores = [
        (score_of(own, one.measure), score_of(other, one.other.measure))
        for own, other in paired_clients(rows, one).values()
    ]
    known = [(a, b) for a, b in scores if a is not None and b is not None]
    if not known or len(known) < len(scores):
        raise DataError(f"expected {one.measure} of both methods of each new client, got less")
    return float(sum(a > b for a, b in known))


def _line(rows: Sequence[Row], one: Published) -> Line:
    """Return the mixed model of single clients' log ratios over their hull TV."""
    points = []
    for key, pair in paired_clients(rows, one).items():
        lead = lead_of(*pair, one.measure)
        if lead is None:
            raise DataError(
                f"expected {one.measure} above zero, a hull_tv and equal steps of client {key}"
            )
        points.append(Point(*lead, int(key[0])))
    line = mixed_line(points)
    if line is None:
        raise DataError(f"expected clients whose coverage varies where {one.where}, got none")
    return line


def _change(rows: Sequence[Row], one: Published, end: int) -> float:
    """Return the factor of a ratio for each `STEP` of hull TV, or an end of its interval."""
    slope = _line(rows, one).slope
    return math.exp(STEP * (slope.mean + end * _half(slope)))


def _alone(rows: Sequence[Row], one: Published) -> Estimate:
    found = estimate(list(by_seed(rows, one).values()))
    assert found is not None  # there are scores
    return found


def _half(found: Estimate) -> float:
    if found.half_width is None:
        raise DataError("expected several seeds for an interval, got one")
    return found.half_width


def _known(p: float | None) -> float:
    if p is None:
        raise DataError("expected several seeds for a test, got one")
    return p


def _p(rows: Sequence[Row], one: Published) -> float:
    return _known(two_sided_p(_compared(rows, one, one.is_of_logs)))


STATISTICS: dict[str, Callable[[Sequence[Row], Published], float]] = {
    "mean": lambda rows, one: _alone(rows, one).mean,
    "half": lambda rows, one: _half(_alone(rows, one)),
    "min": lambda rows, one: _alone(rows, one).low,
    "max": lambda rows, one: _alone(rows, one).high,
    "difference": lambda rows, one: _compared(rows, one, False).mean,
    "difference_half": lambda rows, one: _half(_compared(rows, one, False)),
    "ratio": lambda rows, one: math.exp(_compared(rows, one, True).mean),
    "low": lambda rows, one: math.exp((r := _compared(rows, one, True)).mean - _half(r)),
    "high": lambda rows, one: math.exp((r := _compared(rows, one, True)).mean + _half(r)),
    "p": _p,
    "holm": _p,
    "difference_p": _p,
    "difference_holm": _p,
    "equivalence": lambda rows, one: _known(
        equivalence_p(_compared(rows, one, True), math.log1p(float(one.margin)))
    ),
    "slope": lambda rows, one: _change(rows, one, 0),
    "slope_low": lambda rows, one: _change(rows, one, -1),
    "slope_high": lambda rows, one: _change(rows, one, 1),
    "slope_p": lambda rows, one: _line(rows, one).slope_p,
    "num_above": _num_above,
    "pairs": lambda rows, one: float(_compared(rows, one, False).num),
}


def published_values(
    rows: Sequence[Row], lines: Sequence[Published], families: Families | None = None
) -> list[float]:
    """Return what each line's number is; DataError for a line that cannot be worked out.

    `families`: the p-values of each family's primary comparisons, those that nobody quotes too.
    """
    values = []
    for one in lines:
        if one.statistic not in STATISTICS:
            known = ", ".join(STATISTICS)
            raise DataError(f"expected a statistic out of {known}, got {one.statistic!r}")
        values.append(STATISTICS[one.statistic](rows, one))
    places = [i for i, one in enumerate(lines) if one.statistic in CORRECTED]
    tests = {(lines[i].family, *lines[i].test): values[i] for i in places}
    corrected = _corrected(tests, families or {})
    for i in places:
        values[i] = _known(corrected[lines[i].family, *lines[i].test])
    return values


def _corrected(
    tests: Mapping[tuple[Hashable, ...], float], families: Families
) -> dict[tuple[Hashable, ...], float | None]:
    """Return p-values by family, kind and test after Holm, those of a family and kind together.

    DataError for a test that is none of its family's in `families`, if there are any.
    """
    found = dict[tuple[Hashable, ...], float | None]()
    for name, kind in dict.fromkeys(key[:2] for key in tests):
        own = {key: p for key, p in tests.items() if key[:2] == (name, kind)}
        if families and name not in families:
            known = ", ".join(map(repr, sorted(families)))
            raise DataError(f"expected a family out of {known}, got {name!r}: correct the line")
        members = families[str(name)][bool(kind)] if families else [*own.values()]
        corrected = holm(members)
        for key, p in own.items():
            found[key] = corrected[_place(p, members, str(name))]
    return found


def _place(p: float, members: Sequence[float | None], family: str) -> int:
    """Return where a test stands among those of its family; DataError if it is none of them."""
    for i, one in enumerate(members):
        if one is not None and math.isclose(p, one, rel_tol=SAME_P):
            return i
    raise DataError(
        f"expected a primary comparison of the family {family!r}, got a test with p {p:.3g}, "
        "which none of them has: correct the line's runs, or quote its p without Holm"
    )
