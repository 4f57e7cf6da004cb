"""The rows behind a report: each client's scores in each finished run, as one CSV file.

Committed beside a study, they are what its published numbers are recomputed from. Rows of several
machines and days can stand in one file, because each row names its run, code and configuration.
"""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.config.tracking import TrackingConfig
from pipeline.files.paths import lasting
from pipeline.results.metric_names import (
    CONTROLS_TABLE,
    NEW_CLIENTS_TABLE,
    NN_P,
    TUNED_TABLE,
    pretraining_table,
)
from pipeline.tracking.mlflow_queries import TrackedRun, table_rows
from spire_core.errors import ConfigError, RunError
from sweeps.report.groups import UNSET, Group, method_of, parameters, seed_of, varying

NEW, OLD, TUNED = "new", "pretraining", "tuned"  # kinds of clients
TAGS = ("partition_hash", "config_fingerprint", "state_fingerprint", "git_revision", "extractor")
Row = dict[str, Any]


def write_rows(config: TrackingConfig, groups: Sequence[Group], path: Path) -> Path:
    """Write the rows of these groups' runs, and return the file's absolute path.

    Runs without a table of clients have none. RunError if no run has any; ConfigError if the file
    cannot be written.
    """
    path = lasting(path, "--rows")
    text = rows_text(client_rows(config, [run for group in groups for run in group.runs]))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    except OSError as error:
        raise ConfigError(
            f"expected a file that can be written in --rows, got {path} ({error}): name another"
        ) from error
    return path


def client_rows(config: TrackingConfig, runs: Sequence[TrackedRun]) -> list[Row]:
    """Return a row for each evaluated client of each run: its run's settings, and its scores.

    Pre-training clients are scored after the last round, and once more if they have fine-tuned.
    P-values, `nn_p` and those of controls, are of a run, for all its new clients.
    """
    keys = varying(runs)
    rows = [row for run in runs for row in _rows_of(config, run, keys)]
    if not rows:
        raise RunError(
            f"expected runs with tables of their clients, got {len(runs)} without: wait until they "
            "are delivered (spire sync)"
        )
    return rows


def _rows_of(config: TrackingConfig, run: TrackedRun, keys: Sequence[str]) -> Iterator[Row]:
    params = parameters(run)
    head = {"run_id": run.run_id, "method": method_of(run), "seed": seed_of(run)}
    head |= {key: params.get(key, UNSET) for key in keys}
    tail = {key: run.tags.get(key, "unknown") for key in TAGS}
    last = pretraining_table(int(run.params.get("federation.num_rounds", 0)))
    for clients, table in ((OLD, last), (TUNED, TUNED_TABLE), (NEW, NEW_CLIENTS_TABLE)):
        of_run = _p_values(config, run) if clients == NEW else {}
        for scores in table_rows(config, run.run_id, table):
            yield head | {"clients": clients} | scores | of_run | tail


def _p_values(config: TrackingConfig, run: TrackedRun) -> Row:
    """Return the p-values of a run, over all its new clients: its own, and its controls'."""
    found: Row = {"nn_p": run.finals[NN_P]} if NN_P in run.finals else {}
    for row in table_rows(config, run.run_id, CONTROLS_TABLE)[1:]:  # the first is the run's own
        found[f"nn_p_{row['control']}"] = row["nn_p"]
    return found


def rows_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows as CSV with the columns of all of them; what a row lacks is blank."""
    columns = list(dict.fromkeys(key for row in rows for key in row if key not in TAGS))
    text = io.StringIO()
    writer = csv.DictWriter(text, [*columns, *TAGS], restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
