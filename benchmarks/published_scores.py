"""Scores of the runs and clients that a line of `published.csv` names, out of a study's rows."""

from collections.abc import Sequence
from statistics import fmean

from benchmarks.published import Published, agree
from pipeline.results.covered import covered_ratio
from spire_core.errors import DataError
from sweeps.report.groups import as_number
from sweeps.report.row_runs import NEW, Row, client_numbers

COVERED_RATIO = "covered_ratio"  # the measure that is of whole runs
DIFFERENCES = {"nn_excess": ("nn_share", "nn_chance")}  # measures that are one column less another


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
            known = [score for row in own if (score := score_of(row, one.measure)) is not None]
            scores[pair] = fmean(known)
        elif (ratio := covered_ratio(client_numbers(own))) == 0:
            raise DataError(
                f"expected a KID above zero of clients that are not covered on seed {pair[0]}, got "
                f"none of {one.method}: without a ratio, it has no {COVERED_RATIO}"
            )
        elif ratio is not None:
            scores[pair] = ratio
    if not scores:
        raise DataError(f"expected runs of {one.method} where {one.where or 'anything'}, got none")
    return scores


def _has_score(rows: Sequence[Row], one: Published) -> bool:
    """Return whether a run's clients have a line's score; DataError if only some of them do."""
    if one.measure == COVERED_RATIO:
        return True
    have = [score_of(row, one.measure) is not None for row in rows]
    if any(have) and not all(have):
        raise DataError(
            f"expected {one.measure} of each client of run {rows[0]['run_id']}, got it of "
            f"{sum(have)} of {len(have)}: a mean over these alone would be another number"
        )
    return any(have)


def score_of(row: Row, measure: str) -> float | None:
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


def paired_clients(rows: Sequence[Row], one: Published) -> dict[tuple[str, ...], tuple[Row, Row]]:
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
