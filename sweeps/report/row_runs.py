"""The columns of rows, and the runs that rows stand for: settings, tags, means over clients.

A setting without a column has its default value. What is neither a mean over clients nor a cost
of a run, such as a curve over rounds, cannot be had from rows. A score that some clients of a run
lack has no mean, as it is NaN in a tracked run.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from statistics import fmean, pstdev

from pipeline.results.covered import covered_ratio
from pipeline.results.metric_names import (
    COVERED_RATIO,
    DELTA,
    EPSILON,
    HULL_TV,
    NEAREST_TV,
    ROUND_S,
)
from pipeline.results.params import default_params
from pipeline.tracking.mlflow_queries import TrackedRun
from sweeps.report.controls import ADAPTED, OWN, SCORES, SHARED
from sweeps.report.groups import as_number

NEW, OLD, TUNED = "new", "pretraining", "tuned"  # kinds of clients
HEAD = ("run_id", "method", "seed", "clients", "client_id")
STARTED = "started"  # when the run began, in UTC
TAGS = ("partition_hash", "config_fingerprint", "state_fingerprint", "git_revision", "extractor")
TAGS += ("extractor_hash", "data_hash", "dp", HULL_TV, NEAREST_TV)
COSTS = {  # of a run; rows of older versions lack these columns
    "comm.up_kb_per_client_round": "comm/up_kb_per_client_round",
    "comm.total_mb": "comm/total_mb",
    "time.round_s": ROUND_S,
}
UNKNOWN = "unknown"  # a tag that a run does not have
FILE = "spire.rows"  # the tag with the file of rows from which a run was read; no store has it
Row = Mapping[str, str]
Controls = list[dict[str, float | str | None]]

OLD_METRICS = {  # final metrics of pre-training clients, by the column of the rows
    "kid": "final/pretrain_kid_mean",
    "kid_floor": "final/pretrain_kid_floor",
    "tv": "final/pretrain_tv_mean",
    "heldout_own": "final/pretrain_heldout_own",
    "heldout_zero": "final/pretrain_heldout_zero",
    "heldout_swapped": "final/pretrain_heldout_swapped",
}
OF_SOME = ("fld_excess",)  # of the clients that have fresh images to be held against
AUDIT_METRICS = {"mia_auc": "privacy/mia_auc"}  # of new clients, but no final metrics
TUNED_METRICS = {
    "kid": "final/pretrain_tuned_kid_mean",
    "tv": "final/pretrain_tuned_tv_mean",
    "heldout_own": "final/pretrain_tuned_heldout_own",
}


def is_setting(column: str) -> bool:
    """Return whether a column holds a setting, by its whole key, such as federation.tau."""
    return "." in column and column not in TAGS and column not in COSTS


def whole(run: TrackedRun) -> TrackedRun:
    """Return a run with all settings among its params: one that is none has its default value."""
    return replace(run, params={**default_params(), **run.params})


def client_numbers(rows: Sequence[Row]) -> list[dict[str, float | None]]:
    """Return the scores of a run's new clients, None for what is no number."""
    return [
        {column: as_number(text) for column, text in row.items() if not is_setting(column)}
        for row in rows
        if row["clients"] == NEW
    ]


def rows_by_run(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """Return the rows of each run by its id, in their order."""
    by_run: dict[str, list[Row]] = {}
    for row in rows:
        by_run.setdefault(row["run_id"], []).append(row)
    return by_run


def run_of(rows: Sequence[Row], file: str = "") -> TrackedRun:
    """Return the finished run behind rows, with the final metrics that follow from them."""
    first = rows[0]
    settings = {key: value for key, value in first.items() if is_setting(key) and value != ""}
    params = {**default_params(), **settings}
    params |= {"method.name": first["method"], "seed": first["seed"]}
    tags = {key: first.get(key, UNKNOWN) for key in TAGS}
    tags = {key: value for key, value in tags.items() if value not in (UNKNOWN, "")}
    tags |= {FILE: file} if file else {}
    old = [row for row in rows if row["clients"] == OLD]
    finals = _old_finals(old, OLD_METRICS) | _spread(numbers(old, "kid"))
    finals |= _old_finals([row for row in rows if row["clients"] == TUNED], TUNED_METRICS)
    finals |= _new_finals([row for row in rows if row["clients"] == NEW])
    costs = {name: as_number(first.get(column, "")) for column, name in COSTS.items()}
    finals |= {name: value for name, value in costs.items() if value is not None}
    run_id, began = first["run_id"], milliseconds(first.get(STARTED, ""))
    return TrackedRun(run_id, run_id[:8], "FINISHED", params, tags, finals, began)


def time_text(started_ms: int) -> str:
    """Return a time in milliseconds as text, in UTC."""
    return datetime.fromtimestamp(started_ms / 1000, UTC).isoformat(timespec="milliseconds")


def milliseconds(text: str) -> int:
    """Return the time of `time_text`, 0 of a blank; ValueError if it is none."""
    return round(datetime.fromisoformat(text).timestamp() * 1000) if text else 0


def mean(rows: Sequence[Row], column: str) -> float | None:
    """Return the mean of a column over clients; None unless all of them have a number there."""
    values = numbers(rows, column)
    return fmean(values) if values and len(values) == len(rows) else None


def numbers(rows: Sequence[Row], column: str) -> list[float]:
    """Return the numbers in a column, without what is none."""
    return [value for row in rows if (value := as_number(row.get(column, ""))) is not None]


def having(rows: Sequence[Row], columns: Collection[str]) -> list[Row]:
    """Return the rows with a number in one of these columns."""
    return [row for row in rows if any(as_number(row.get(c, "")) is not None for c in columns)]


def _old_finals(rows: Sequence[Row], names: Mapping[str, str]) -> dict[str, float]:
    means = {name: mean(rows, column) for column, name in names.items()}
    return {name: value for name, value in means.items() if value is not None}


def _spread(kids: Sequence[float]) -> dict[str, float]:
    """Return the worst KID of pre-training clients and its deviation, of those that have one."""
    if not kids:
        return {}
    return {"final/pretrain_kid_worst": max(kids), "final/pretrain_kid_std": pstdev(kids)}


def _new_finals(rows: Sequence[Row]) -> dict[str, float]:
    other = (*HEAD, STARTED, *TAGS, *COSTS)
    columns = {key for row in rows for key in row if key not in other and not is_setting(key)}
    means = {
        AUDIT_METRICS.get(column, f"final/adapt_{column}"): mean(
            having(rows, [column]) if column in OF_SOME else rows, column
        )
        for column in columns
    }
    finals = {name: value for name, value in means.items() if value is not None}
    if {"final/adapt_kid_before", "final/adapt_kid_after"} <= finals.keys():
        before, after = finals["final/adapt_kid_before"], finals["final/adapt_kid_after"]
        if before > 0:
            finals["final/adapt_kid_ratio"] = after / before
        finals["final/adapt_kid_worst"] = max(numbers(rows, "kid_after"))
    if (ratio := covered_ratio(client_numbers(rows))) is not None:
        finals[COVERED_RATIO] = ratio
    if "final/adapt_num_trained" in finals:
        finals["params/trainable_new_client"] = finals["final/adapt_num_trained"]
    return finals | _privacy(rows)


def _privacy(rows: Sequence[Row]) -> dict[str, float]:
    """Return an epsilon and a delta that hold for the images of every new client."""
    pairs = ((as_number(row.get("epsilon", "")), as_number(row.get("delta", ""))) for row in rows)
    known = [(epsilon, delta) for epsilon, delta in pairs if epsilon and delta]
    if not known:
        return {}
    epsilons, deltas = zip(*known, strict=True)
    return {EPSILON: max(epsilons), DELTA: max(deltas)}


def control_rows(rows: Sequence[Row]) -> Controls:
    """Return a run's means over new clients of its own scores and of those of its controls.

    Those of a control are over the clients that have it.
    """
    new = [row for row in rows if row["clients"] == NEW]
    known = [name for name in (*SHARED, *OWN) if having(new, [f"kid_{name}"])]
    columns = {name: {score: f"{score}_{name}" for _, score in SCORES} for name in known}
    own_of = {name: having(new, [own["kid"], own["tv"]]) for name, own in columns.items()}
    if columns:  # else the run has no controls
        columns[ADAPTED] = {score: score for _, score in SCORES}
        columns[ADAPTED] |= {"kid": "kid_after", "tv": "tv_after"}
    return [
        {"control": name} | {score: mean(own_of.get(name, new), own[score]) for _, score in SCORES}
        for name, own in columns.items()
    ]
