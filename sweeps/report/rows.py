"""The table of clients: a row for each client in each finished run, with its settings and scores.

Rows of several machines and days can stand in one table, because each row names its run, code and
configuration.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from pipeline.config.tracking import TrackingConfig
from pipeline.results.metric_names import (
    AUDITED_TABLE,
    CONTROLS_TABLE,
    HULL_TV,
    NEAREST_TV,
    NEW_CLIENTS_TABLE,
    NN_P,
    ROUND_S,
    TUNED_TABLE,
    pretraining_table,
)
from pipeline.results.params import default_params
from pipeline.tracking.mlflow_queries import TrackedRun, table_rows
from spire_core.errors import RunError
from sweeps.report.controls import ADAPTED
from sweeps.report.groups import UNSET, method_of, parameters, seed_of, varying

NEW, OLD, TUNED = "new", "pretraining", "tuned"  # kinds of clients
STARTED = "started"  # when the run began, in UTC
TAGS = ("partition_hash", "config_fingerprint", "state_fingerprint", "git_revision", "extractor")
TAGS += ("extractor_hash", "data_hash", "dp", HULL_TV, NEAREST_TV)
UNKNOWN = "unknown"  # a tag that a run does not have
COSTS = {  # of a run
    "comm.up_kb_per_client_round": "comm/up_kb_per_client_round",
    "comm.total_mb": "comm/total_mb",
    "time.round_s": ROUND_S,
}
POOLED = ("nn_p", "precision", "recall")
Row = dict[str, Any]


def client_rows(config: TrackingConfig, runs: Sequence[TrackedRun]) -> list[Row]:
    """Return a row for each evaluated client of each run: its run's settings, and its scores.

    `runs`: finished ones, each `whole` and `with_finals`. Pre-training clients are scored after
    the last round, and once more if they have fine-tuned. P-values, precision and recall, also of
    controls, are of all new clients of a run. RunError for a run without scores of all its new
    clients, or if no run has any client.
    """
    varied, columns = varying(runs), _columns(runs)
    rows = []
    for run in runs:
        head, tail = _head(run, varied, columns), _tail(run)
        rows += [head | scores | tail for scores in _scores(config, run)]
    if not rows:
        raise RunError(
            f"expected runs with tables of their clients, got {len(runs)} without: wait until they "
            "are delivered (spire sync)"
        )
    return rows


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
    # By their whole key, such as federation.tau: method and seed have columns of their own.
    return sorted(key for key in {*varying(runs), *set_by_some} if "." in key)


def _head(run: TrackedRun, varied: Sequence[str], columns: Sequence[str]) -> Row:
    params = parameters(run)
    settings = {key: params.get(key, UNSET if key in varied else "") for key in columns}
    return {"run_id": run.run_id, "method": method_of(run), "seed": seed_of(run)} | settings


def _tail(run: TrackedRun) -> Row:
    """Return the cells of a run's costs, as far as they are known, of its time and of its tags."""
    costs = {column: run.finals[name] for column, name in COSTS.items() if name in run.finals}
    began = datetime.fromtimestamp(run.started_ms / 1000, UTC).isoformat(timespec="milliseconds")
    return costs | {STARTED: began} | {k: run.tags.get(k, UNKNOWN) for k in TAGS}


def _scores(config: TrackingConfig, run: TrackedRun) -> list[Row]:
    """Return the scores of a run's clients; RunError without those of all new ones."""
    rows = [*_of_clients(config, run)]
    num_new = sum(row["clients"] == NEW for row in rows)
    wanted = run.params.get("federation.num_new_clients", "0")
    if str(num_new) != wanted:
        raise RunError(
            f"expected scores of {wanted} new clients of run {run.run_id[:8]}, got {num_new}: wait "
            "until its tables are delivered (spire sync)"
        )
    return rows


def _of_clients(config: TrackingConfig, run: TrackedRun) -> Iterator[Row]:
    last = pretraining_table(int(run.params.get("federation.num_rounds", 0)))
    for clients, table in ((OLD, last), (TUNED, TUNED_TABLE), (NEW, NEW_CLIENTS_TABLE)):
        of_run = _of_all_clients(config, run) if clients == NEW else {}
        audited = _audited(config, run) if clients == NEW else {}
        for scores in table_rows(config, run.run_id, table):
            yield {"clients": clients} | scores | audited.get(scores["client_id"], {}) | of_run


def _audited(config: TrackingConfig, run: TrackedRun) -> Mapping[int, Row]:
    """Return the areas of the audit's attacks on each new client's model, if there was an audit."""
    return {row["client_id"]: row for row in table_rows(config, run.run_id, AUDITED_TABLE)}


def _of_all_clients(config: TrackingConfig, run: TrackedRun) -> Row:
    """Return scores of a run that are over all its new clients: its own, and its controls'."""
    found: Row = {"nn_p": run.finals[NN_P]} if NN_P in run.finals else {}
    for row in table_rows(config, run.run_id, CONTROLS_TABLE):
        of = "" if row["control"] == ADAPTED else f"_{row['control']}"  # its p-value is a tag too
        found |= {f"{name}{of}": row[name] for name in POOLED if name in row}
    return found
