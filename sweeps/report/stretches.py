"""Rows of other stretches of a study, such as another machine's, read back as finished runs.

Runs of rows and runs of the store stand side by side. Of one experiment on one seed, that of the
later commit counts (`without_overruled`).
"""

import csv
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.files.paths import expanded
from pipeline.files.revision import commit_time
from pipeline.results.metric_names import HULL_TV, NEAREST_TV
from pipeline.tracking.mlflow_queries import TrackedRun
from spire_core.errors import ConfigError, DataError
from sweeps.report.groups import as_number, seed_of
from sweeps.report.row_runs import (
    FILE,
    HEAD,
    NEW,
    OLD,
    STARTED,
    TAGS,
    TUNED,
    UNKNOWN,
    Row,
    milliseconds,
    rows_by_run,
    run_of,
)

OPTION = "--rows-from"
AGAIN = "write it again with spire report SWEEP --rows FILE"


@dataclass(frozen=True)
class Stretches:
    """Finished runs out of files of rows, and the rows of each run by its id."""

    runs: tuple[TrackedRun, ...] = ()
    rows: Mapping[str, Sequence[Row]] = field(default_factory=dict)

    def of(self, run_ids: Collection[str]) -> "Stretches":
        """Return those of these runs alone."""
        runs = tuple(run for run in self.runs if run.run_id in run_ids)
        return Stretches(runs, {run.run_id: self.rows[run.run_id] for run in runs})

    def not_in(self, tracked: Sequence[TrackedRun]) -> list[TrackedRun]:
        """Return the runs that are not tracked here as well."""
        known = {run.run_id for run in tracked if run.status == "FINISHED"}
        return [run for run in self.runs if run.run_id not in known]


def read_stretches(paths: Sequence[str | Path]) -> Stretches:
    """Return the runs of files of rows; of a run in several files, those of the last of them.

    ConfigError for a file that cannot be read, DataError for one that holds no whole rows.
    """
    runs: dict[str, TrackedRun] = {}
    rows: dict[str, Sequence[Row]] = {}
    for path in paths:
        place = expanded(path, OPTION)
        for run_id, own in rows_by_run(_read(place)).items():
            runs[run_id], rows[run_id] = run_of(own, str(path)), own
            check_complete(place, runs[run_id], own)
    return Stretches(tuple(runs.values()), rows)


def _read(path: Path) -> list[Row]:
    """Return the rows of a file, each whole and with an own run."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file, strict=True)
            columns = reader.fieldnames or ()
            lines = [(reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(
            f"expected a CSV file of rows in {OPTION}, got {path} ({error}): name one that spire "
            "report --rows has written"
        ) from error
    missing = [column for column in (*HEAD, STARTED, *TAGS) if column not in columns]
    if missing:
        raise DataError(
            f"expected the columns of rows in {path}, got none named {missing[0]}: {AGAIN}"
        )
    for line, row in lines:
        _check(path, line, row)
    if not lines:
        raise DataError(f"expected rows in {path}, got columns alone: {AGAIN}")
    return [row for _, row in lines]


def _check(path: Path, line: int, row: Row) -> None:
    """Raise DataError for a row that is cut off or names no run, seed, client or time."""
    wrong = None
    if None in row or None in row.values():
        wrong = "another number of cells"
    elif not row["run_id"] or not row["method"]:
        wrong = "no run or no method"
    elif not (_is_whole(row["seed"].removeprefix("-")) and _is_whole(row["client_id"])):
        wrong = f"seed {row['seed']!r} and client {row['client_id']!r}"
    elif row["clients"] not in (OLD, TUNED, NEW):
        wrong = f"clients {row['clients']!r}"
    elif not _is_time(row[STARTED]):
        wrong = f"started {row[STARTED]!r}"
    elif not _is_coverage(row[HULL_TV], row[NEAREST_TV]):
        wrong = f"coverage {row[HULL_TV]!r} and {row[NEAREST_TV]!r}"
    if wrong:
        raise DataError(
            f"expected a client's scores in line {line} of {path}, got {wrong}: {AGAIN}"
        )


def _is_whole(text: str) -> bool:
    return text.isascii() and text.isdigit()


def _is_coverage(hull_tv: str, nearest_tv: str) -> bool:
    """Return whether both are numbers, or neither is known."""
    both = (hull_tv, nearest_tv)
    return set(both) <= {UNKNOWN, ""} or None not in map(as_number, both)


def _is_time(text: str) -> bool:
    try:
        return milliseconds(text) >= 0
    except (ValueError, OverflowError):
        return False


def check_complete(path: Path, run: TrackedRun, rows: Sequence[Row]) -> None:
    """Raise DataError for a run that lacks rows of new clients, or has a client twice."""
    clients = Counter((row["clients"], int(row["client_id"])) for row in rows)
    (kind, client_id), times = clients.most_common(1)[0]
    if times > 1:
        raise DataError(
            f"expected a row of each client of run {run.run_id[:8]} in {path}, got {times} of the "
            f"{kind} client {client_id}: {AGAIN}"
        )
    found = sum(kind == NEW for kind, _ in clients)
    wanted = run.params["federation.num_new_clients"]
    if str(found) != wanted:
        raise DataError(
            f"expected rows of {wanted} new clients of run {run.run_id[:8]} in {path}, got "
            f"{found}: {AGAIN}"
        )


def without_overruled(runs: Sequence[TrackedRun]) -> list[TrackedRun]:
    """Return runs without those of rows, or instead of rows, that a later commit has done again.

    An experiment is its configuration's fingerprint and its seed, on the same images and scored by
    the same extractor. Where a commit is not known
    here, the run that began later counts. Runs that are all tracked here are left as they are.
    """
    several: dict[tuple[str, int, str, str], list[TrackedRun]] = {}
    for run in runs:
        data, extractor = (run.tags.get(f"{of}_hash", UNKNOWN) for of in ("data", "extractor"))
        own = run.tags.get("config_fingerprint", run.run_id)
        experiment = own, seed_of(run), data, extractor
        several.setdefault(experiment, []).append(run)
    out: set[str] = set()
    for same in several.values():
        if len(same) > 1 and any(FILE in run.tags for run in same):
            last = _latest(same)
            out |= {run.run_id for run in same if run is not last}
    return [run for run in runs if run.run_id not in out]


def _latest(runs: Sequence[TrackedRun]) -> TrackedRun:
    times = [commit_time(run.tags.get("git_revision", "")) for run in runs]
    if None in times:
        return max(runs, key=lambda run: run.started_ms)
    ranks = [(time, run.started_ms) for time, run in zip(times, runs, strict=True)]
    return runs[ranks.index(max(ranks))]
