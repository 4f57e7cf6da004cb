"""The numbers of pages, and what each is said to be.

`published_values.py` works them out, and `recompute.py` compares. A study's `published.csv` has a
line for each number:

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
from collections.abc import Hashable
from dataclasses import dataclass, replace
from pathlib import Path

from spire_core.errors import DataError
from sweeps.report.groups import as_number
from sweeps.report.row_runs import NEW, rows_by_run, run_of
from sweeps.report.stretches import check_complete

TOLERANCE = 1e-9  # of sums in another order
CONDITION = re.compile(r"(?P<column>[\w.]+)\s*(?P<sign>=|>=|<)\s*(?P<value>[^=<>]+)")


def read_rows(path: Path) -> list[dict[str, str]]:
    """Return a CSV file's rows."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def study_rows(folder: Path) -> list[dict[str, str]]:
    """Return a study's rows of clients; DataError if a run lacks those of a new client."""
    path = folder / "rows.csv"
    rows = read_rows(path)
    for own in rows_by_run(rows).values():
        check_complete(path, run_of(own), own)
    return rows


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
