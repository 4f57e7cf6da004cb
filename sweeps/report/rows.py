"""The rows behind a report: each client's scores in each finished run, as one CSV file.

Committed beside a study, they are what its published numbers are recomputed from. Rows of several
machines and days can stand in one file, because each row names its run, code and configuration.
`stretches` reads them back.
"""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.config.tracking import TrackingConfig
from pipeline.files.atomic import replace_file
from pipeline.files.paths import lasting
from pipeline.results.metric_names import (
    AUDITED_TABLE,
    CONTROLS_TABLE,
    NEW_CLIENTS_TABLE,
    NN_P,
    TUNED_TABLE,
    pretraining_table,
)
from pipeline.results.params import default_params
from pipeline.tracking.mlflow_queries import TrackedRun, table_rows
from spire_core.config.checks import require
from spire_core.errors import ConfigError, RunError
from sweeps.report.controls import ADAPTED
from sweeps.report.finals import is_read
from sweeps.report.groups import UNSET, Group, method_of, parameters, seed_of, varying
from sweeps.report.row_runs import (
    COSTS,
    HEAD,
    NEW,
    OLD,
    STARTED,
    TAGS,
    TUNED,
    UNKNOWN,
    is_setting,
    time_text,
)
from sweeps.report.stretches import Stretches

POOLED = ("nn_p", "precision", "recall")
Row = dict[str, Any]


def write_rows(
    config: TrackingConfig, groups: Sequence[Group], stretches: Stretches, path: Path
) -> Path:
    """Write the rows of these groups' runs, and return the file's absolute path.

    RunError as `client_rows`, ConfigError if the file cannot be written. Then one that was there is
    as it was.
    """
    path = lasting(path, "--rows")
    runs = [run for group in groups for run in group.runs]
    text = rows_text(client_rows(config, runs, stretches))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and not path.is_file():  # a device, or a folder, which refuses
            path.write_text(text, encoding="utf-8")
        else:
            replace_file(path, text.encode(), is_lasting=True)
    except OSError as error:
        raise ConfigError(
            f"expected a file that can be written in --rows, got {path} ({error}): name another"
        ) from error
    return path


def check_replaced(path: Path | None, runs: Sequence[TrackedRun]) -> None:
    """Raise ConfigError if a file holds something else than rows of these runs: it would be lost.

    So it would be where --rows was typed for --rows-from.
    """
    if path is None or not (path := lasting(path, "--rows")).is_file() or not path.stat().st_size:
        return
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            is_rows = {*HEAD} <= {*(reader.fieldnames or ())}
            found = {row["run_id"] for row in reader} if is_rows else set()
    except (OSError, UnicodeDecodeError, csv.Error):
        is_rows, found = False, set()
    require(is_rows, "a new file or one of rows in --rows", path, "it is no rows, so name another")
    others = found - {run.run_id for run in runs}
    got = f"{path} with rows of other runs, such as {str(min(others, default=''))[:8]}"
    advice = f"add --rows-from {path} to keep them, or name another file"
    require(not others, "rows of runs of this report in --rows", got, advice)


def client_rows(
    config: TrackingConfig, runs: Sequence[TrackedRun], stretches: Stretches
) -> list[Row]:
    """Return a row for each evaluated client of each run: its run's settings, and its scores.

    Pre-training clients are scored after the last round, and once more if they have fine-tuned.
    P-values, precision and recall, also of controls, are of all new clients of a run. The scores
    of a run out of rows are the text that they were, and so are those of a tracked run whose tables
    lack clients that its rows have. RunError for a run without all new clients, or if no run has
    any client.
    """
    varied, columns = varying(runs), _columns(runs)
    rows = []
    for run in runs:
        head, tail = _head(run, varied, columns), _tail(run)
        scores = _run_scores(config, run, stretches.rows.get(run.run_id, ()))
        rows += [head | scored | tail for scored in scores]
    if not rows:
        raise RunError(
            f"expected runs with tables of their clients, got {len(runs)} without: wait until they "
            "are delivered (spire sync)"
        )
    return rows


def _run_scores(
    config: TrackingConfig, run: TrackedRun, read: Sequence[Mapping[str, str]]
) -> list[Row]:
    """Return the scores of a run's clients: those that were `read` if the store has lost some.

    RunError without those of all new clients, which nobody could read back.
    """
    own = [_scores(row) for row in read]
    if is_read(run):
        return own
    tracked = [*_tracked_scores(config, run)]
    if _clients(own) - _clients(tracked):
        return own
    num_new = sum(kind == NEW for kind, _ in _clients(tracked))
    wanted = run.params.get("federation.num_new_clients", "0")
    if str(num_new) != wanted:
        raise RunError(
            f"expected scores of {wanted} new clients of run {run.run_id[:8]} for --rows, got "
            f"{num_new}: wait until its tables are delivered (spire sync), or add --rows-from with "
            "a file that has them"
        )
    return tracked


def _clients(rows: Sequence[Row]) -> set[tuple[str, str]]:
    return {(row["clients"], str(row["client_id"])) for row in rows}


def _columns(runs: Sequence[TrackedRun]) -> list[str]:
    """Return the settings that vary over runs, and those that are not at their default in some.

    With them rows say all settings of their runs, also beside rows of other runs.
    """
    default = default_params()
    set_by_some = {
        key
        for run in runs
        for key, value in parameters(run).items()
        if value != default.get(key, UNSET)
    }
    return sorted(key for key in {*varying(runs), *set_by_some} if is_setting(key))


def _head(run: TrackedRun, varied: Sequence[str], columns: Sequence[str]) -> Row:
    params = parameters(run)
    settings = {key: params.get(key, UNSET if key in varied else "") for key in columns}
    return {"run_id": run.run_id, "method": method_of(run), "seed": seed_of(run)} | settings


def _tail(run: TrackedRun) -> Row:
    """Return the cells of a run's costs, as far as they are known, of its time and of its tags."""
    costs = {column: run.finals[name] for column, name in COSTS.items() if name in run.finals}
    began = {STARTED: time_text(run.started_ms)}
    return costs | began | {k: run.tags.get(k, UNKNOWN) for k in TAGS}


def _scores(row: Mapping[str, str]) -> Row:
    """Return the cells of a row that was read, without its run's settings and tags."""
    dropped = (*HEAD[:3], STARTED, *TAGS, *COSTS)
    return {k: v for k, v in row.items() if k not in dropped and not is_setting(k)}


def _tracked_scores(config: TrackingConfig, run: TrackedRun) -> Iterator[Row]:
    last = pretraining_table(int(run.params.get("federation.num_rounds", 0)))
    for clients, table in ((OLD, last), (TUNED, TUNED_TABLE), (NEW, NEW_CLIENTS_TABLE)):
        of_run = _of_all_clients(config, run) if clients == NEW else {}
        audited = _audited(config, run) if clients == NEW else {}
        for scores in table_rows(config, run.run_id, table):
            yield {"clients": clients} | scores | audited.get(scores["client_id"], {}) | of_run


def _audited(config: TrackingConfig, run: TrackedRun) -> dict[int, Row]:
    """Return the areas of the audit's attacks on each new client's model, if there was an audit."""
    return {row["client_id"]: row for row in table_rows(config, run.run_id, AUDITED_TABLE)}


def _of_all_clients(config: TrackingConfig, run: TrackedRun) -> Row:
    """Return scores of a run that are over all its new clients: its own, and its controls'."""
    found: Row = {"nn_p": run.finals[NN_P]} if NN_P in run.finals else {}
    for row in table_rows(config, run.run_id, CONTROLS_TABLE):
        of = "" if row["control"] == ADAPTED else f"_{row['control']}"  # its p-value is a tag too
        found |= {f"{name}{of}": row[name] for name in POOLED if name in row}
    return found


def rows_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows as CSV with the columns of all of them; what a row lacks is blank."""
    last = (STARTED, *TAGS)
    columns = list(dict.fromkeys(key for row in rows for key in row if key not in last))
    text = io.StringIO()
    writer = csv.DictWriter(text, [*columns, *last], restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
