"""The numbers of pages, worked out from a study's rows. `benchmarks/recompute.py` runs this.

A study's `published.csv` has a line for each number:

    page       the page, below docs/
    quote      a text on it, in which the number stands
    printed    the number as it stands there; it is compared to its last digit
    statistic  mean, half, min, max, pairs; ratio, low, high, p, holm, equivalence; difference,
               difference_half, difference_p, difference_holm; slope, slope_low, slope_high,
               slope_p; num_above, the number of new clients whose score is higher with method
    measure    a column of the rows, such as kid_after (new clients) or kid (pre-training clients);
               nn_excess, nn_share less nn_chance; covered_ratio, the KID of covered new clients by
               that of a run's others
    method, against   the method, and from difference on the one that it is compared with
    where      settings of the compared runs, such as adapt.num_images=16;adapt.lr=0.02, and bounds
               of clients' scores, such as true_accuracy>=0.6;true_accuracy<0.8
    margin     of equivalence, as a share
    clients    new, pretraining or tuned, as in the rows; blank: new
    against_where   settings of the runs compared with; blank: those of where
    family     of primary comparisons that are corrected together
    against_clients clients of the runs compared with; blank: those of clients
    against_measure the measure of the runs compared with, such as kid_before; blank: measure

A score of a run is the mean over its clients; min and max are over runs. half is half of the 95 %
interval over seeds. ratio, low, high, p, holm and equivalence are of logarithms of paired scores,
as in a report, and those that begin with difference are of the scores. Those that begin with slope
are of single new clients, as in the report's lead and coverage of clients: the factor by which the
ratio of their scores changes for each 0.1 of their hull TV, by a mixed model. Holm's p-values are
those of the study's primary comparisons, each corrected for all of its family, those too that have
not run or that nobody quotes. So is equivalence. Without a sweep's file that names any, the lines
of a family are corrected together.
"""

import csv
import math
import re
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean

from pipeline.results.covered import covered_ratio
from spire_core.errors import DataError
from sweeps.report.client_coverage import lead_of
from sweeps.report.coverage import STEP
from sweeps.report.groups import as_number
from sweeps.report.regression import Line, Point, mixed_line
from sweeps.report.row_runs import NEW, Row, client_numbers
from sweeps.report.stats import Estimate, equivalence_p, estimate, holm, paired, two_sided_p

CORRECTED = ("holm", "difference_holm", "equivalence")  # for their number
TOLERANCE = 1e-9  # of sums in another order
SAME_P = 1e-6  # the share by which two p-values of one test may differ
COVERED_RATIO = "covered_ratio"  # the measure that is of whole runs
Families = Mapping[str, Mapping[bool, Sequence[float | None]]]  # by name and whether equivalence
DIFFERENCES = {"nn_excess": ("nn_share", "nn_chance")}  # measures that are one column less another
CONDITION = re.compile(r"(?P<column>[\w.]+)\s*(?P<sign>=|>=|<)\s*(?P<value>[^=<>]+)")


def read_rows(path: Path) -> list[dict[str, str]]:
    """Return a CSV file's rows."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def agree(one: str, other: str, abs_tol: float = TOLERANCE) -> bool:
    """Return whether two cells are the same text or, but for rounding, the same number."""
    if one == other:
        return True
    a, b = as_number(one), as_number(other)
    return (
        a is not None and b is not None and math.isclose(a, b, rel_tol=TOLERANCE, abs_tol=abs_tol)
    )


@dataclass(frozen=True)
class Published:
    """A number on a page, and what it is said to be."""

    page: str
    quote: str
    printed: str
    statistic: str
    measure: str
    method: str
    against: str = ""
    where: str = ""
    margin: str = ""
    clients: str = ""
    against_where: str = ""
    family: str = ""
    against_clients: str = ""
    against_measure: str = ""

    @property
    def other(self) -> "Published":
        """The line of the runs that are compared with."""
        return replace(
            self,
            method=self.against,
            measure=self.against_measure or self.measure,
            where=self.against_where or self.where,
            clients=self.against_clients or self.clients,
        )

    @property
    def test(self) -> tuple[Hashable, ...]:
        """What a p-value is of: lines that say the same in other words have made one test."""
        is_equivalence = self.statistic == "equivalence"
        sides = frozenset((one.method, frozenset(one.normal)) for one in (self, self.other))
        kinds = frozenset(one.clients or NEW for one in (self, self.other))
        measures = frozenset((self.measure, self.other.measure))
        of_clients = (measures, kinds, self.is_of_logs)
        return (is_equivalence, float(self.margin) if is_equivalence else 0, sides, *of_clients)

    @property
    def is_of_logs(self) -> bool:
        return not self.statistic.startswith("difference")

    @property
    def normal(self) -> list[tuple[str, str, str | float]]:
        """The conditions with their numbers as numbers."""
        found = ((key, sign, value, as_number(value)) for key, sign, value in self.conditions)
        return [(key, sign, value if num is None else num) for key, sign, value, num in found]

    @property
    def conditions(self) -> list[tuple[str, str, str]]:
        """What rows of the compared runs fulfil: column, sign and value."""
        parts = [part.strip() for part in self.where.split(";") if part.strip()]
        found = [CONDITION.fullmatch(part) for part in parts]
        if None in found:
            raise DataError(f"expected conditions such as seed=0 or tv<0.3, got {self.where!r}")
        return [(one["column"], one["sign"], one["value"]) for one in found if one]

    def rounded(self, value: float) -> str:
        """Return a value with as many decimals as are printed, and an exponent if one is."""
        mantissa, exponent, _ = self.printed.partition("e")
        text = f"{value:.{len(mantissa.partition('.')[2])}{'e' if exponent else 'f'}}"
        return text if float(text) else text.removeprefix("-")


def by_seed(rows: Sequence[Row], one: Published) -> dict[tuple[str, str], float]:
    """Return a line's score by seed and partition; DataError if several runs have one seed."""
    asked = [row for row in rows if row["clients"] == (one.clients or NEW)]
    conditions = one.conditions
    fitting = [row for row in asked if row["method"] == one.method and _fits(row, conditions)]
    runs: dict[tuple[str, str], dict[str, list[Row]]] = {}
    for row in fitting:
        pair = (row["seed"], row["partition_hash"])
        runs.setdefault(pair, {}).setdefault(row["run_id"], []).append(row)
    scores = {}
    for pair, several in runs.items():
        several = {run: own for run, own in several.items() if _has_score(own, one)}
        if not several:
            continue
        if len(several) > 1:
            raise DataError(
                f"expected one run of {one.method} on seed {pair[0]} where "
                f"{one.where or 'anything'}, got {len(several)}: name more settings"
            )
        [own] = several.values()
        if one.measure != COVERED_RATIO:
            known = [score for row in own if (score := _score(row, one.measure)) is not None]
            scores[pair] = fmean(known)
        elif (ratio := covered_ratio(client_numbers(own))) is not None:
            scores[pair] = ratio
    if not scores:
        raise DataError(f"expected runs of {one.method} where {one.where or 'anything'}, got none")
    return scores


def _has_score(rows: Sequence[Row], one: Published) -> bool:
    """Return whether a run's clients have a line's score; DataError if only some of them do."""
    if one.measure == COVERED_RATIO:
        return True
    have = [_score(row, one.measure) is not None for row in rows]
    if any(have) and not all(have):
        raise DataError(
            f"expected {one.measure} of each client of run {rows[0]['run_id']}, got it of "
            f"{sum(have)} of {len(have)}: a mean over these alone would be another number"
        )
    return any(have)


def _score(row: Row, measure: str) -> float | None:
    """Return a client's score; None if its row has none."""
    first, *others = (as_number(row.get(key, "")) for key in DIFFERENCES.get(measure, (measure,)))
    return None if first is None or None in others else first - sum(filter(None, others))


def _fits(row: Row, conditions: Sequence[tuple[str, str, str]]) -> bool:
    unknown = [column for column, _, _ in conditions if column not in row]
    if unknown:
        raise DataError(f"expected settings among the columns of the rows, got {unknown[0]!r}")
    return all(_fulfils(row[column], sign, value) for column, sign, value in conditions)


def _fulfils(cell: str, sign: str, value: str) -> bool:
    if sign == "=":
        return agree(cell, value)
    score, bound = as_number(cell), float(value)
    return score is not None and (score < bound if sign == "<" else score >= bound)


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


def _paired_clients(rows: Sequence[Row], one: Published) -> dict[tuple[str, ...], tuple[Row, Row]]:
    """Return the rows of each new client with both methods, by seed, partition and client."""
    sides: list[dict[tuple[str, ...], Row]] = []
    for side in (one, one.other):
        new = [row for row in rows if row["clients"] == NEW and row["method"] == side.method]
        by_client: dict[tuple[str, ...], Row] = {}
        for row in (row for row in new if _fits(row, side.conditions)):
            key = (row["seed"], row["partition_hash"], row["client_id"])
            if key in by_client:
                raise DataError(f"expected one run of {side.method} on a seed where {side.where}")
            by_client[key] = row
        sides.append(by_client)
    return {key: (sides[0][key], sides[1][key]) for key in sides[0] if key in sides[1]}


def _num_above(rows: Sequence[Row], one: Published) -> float:
    """Return of how many new clients a line's score is higher with its method."""
    scores = [
        (_score(own, one.measure), _score(other, one.other.measure))
        for own, other in _paired_clients(rows, one).values()
    ]
    known = [(a, b) for a, b in scores if a is not None and b is not None]
    if not known or len(known) < len(scores):
        raise DataError(f"expected {one.measure} of both methods of each new client, got less")
    return float(sum(a > b for a, b in known))


def _line(rows: Sequence[Row], one: Published) -> Line:
    """Return the mixed model of single clients' log ratios over their hull TV."""
    points = []
    for key, pair in _paired_clients(rows, one).items():
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
