"""Each client's scores of finished runs, out of a real MLflow store."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.tracking import TrackingConfig
from pipeline.tracking.mlflow_queries import sweep_runs
from pipeline.tracking.tracker import Tracker
from spire_core.errors import RunError
from sweeps.report.finals import with_finals
from sweeps.report.groups import whole
from sweeps.report.make import make_report
from sweeps.report.rows import Row, client_rows

FINALS = {  # means over the clients of the tables below
    "spire": {
        "final/adapt_kid_after": 0.1,
        "final/adapt_tv_after": 0.3,
        "final/pretrain_kid_mean": 0.5,
        "final/pretrain_kid_worst": 0.5,
        "best/kid_mean": 0.4,
        "final/adapt_nn_share": 0.625,
        "final/adapt_nn_p": 0.25,
        "final/adapt_precision": 0.75,
        "final/adapt_recall": 0.5,
        "privacy/mia_auc": 0.7,
    },
    "local": {"final/adapt_kid_after": 1.5},
}
SWEEP = {
    "name": "study",
    "axes": {
        "fit": [
            {"method": "spire", "adapt.lr": 0.02, "eval.controls": True},
            {"method": "local", "adapt.lr": 0.1, "eval.controls": False},
        ]
    },
    "seeds": [4, 5],
    "primary": [{"method": "local"}],
}
NEW, LAST = "tables/new_clients.json", "tables/pretrain_round_3.json"
AUDITED = "tables/privacy_clients.json"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, new_database: Path) -> TrackingConfig:
    """A sweep of two methods; only the first has pre-training. And a run without any table."""
    root = tmp_path_factory.mktemp("rows")
    shutil.copy(new_database, root)
    config = TrackingConfig(root=str(root), uri=f"sqlite:///{root}/mlflow.db")
    with Tracker.start(config, "study", {"spire.kind": "sweep"}) as parent:
        parent.log_dict(SWEEP, "config/sweep.yaml")
        kids = {"client_id": [7, 8], "kid_after": [0.125, 0.075], "tv_after": [0.3, 0.1 + 0.2]}
        kids |= {"kid_copies": [0.25, 0.75], "nn_share": [0.5, 0.75]}
        mean = {"control": ["adapted", "copies"], "kid": [0.1, 0.5], "tv": [0.3, None]}
        mean |= {"nn_share": [0.625, None], "nn_p": [0.25, 0.0001], "num_clients": [2, 2]}
        mean |= {"precision": [0.75, 1.0], "recall": [0.5, None]}
        tables = {NEW: kids, LAST: {"client_id": [0], "kid": [0.5]}, "tables/controls.json": mean}
        tables[AUDITED] = {"client_id": [8, 7], "mia_auc": [0.9, 0.5]}
        log(config, parent.run_id, "spire", tables)
        log(config, parent.run_id, "local", {NEW: {"client_id": [7, 8], "kid_after": [1.0, 2.0]}})
    log(config, None, "fedavg", {})
    return config


def log(
    config: TrackingConfig,
    parent: str | None,
    method: str,
    tables: dict[str, dict[str, Sequence[Any]]],
) -> None:
    tags = {"method": method, "partition_hash": "p", "state_fingerprint": f"s-{method}"}
    tags |= {"git_revision": "abc", "config_fingerprint": f"c-{method}", "extractor": "mnist-cnn"}
    with Tracker.start(config, method, tags, parent) as tracker:
        params = {"method.name": method, "seed": 4, "federation.num_rounds": 3}
        params |= {"adapt.lr": 0.02 if method == "spire" else 0.1, "federation.num_new_clients": 2}
        params |= {"federation.cohort_size": 2}
        tracker.log_params(params | {"eval.controls": method == "spire"})
        for step in range(1, 4) if LAST in tables else ():
            sent = {"comm/up_bytes": 4000.0, "comm/down_bytes": 6000.0, "pretrain/dropped": 0.0}
            tracker.log_metrics(sent | {"time/round_s": 0.25 * step}, step)
        tracker.log_metrics(FINALS.get(method, {"final/adapt_kid_after": 1.0}), 0)
        tracker.log_table("tables/pretrain_round_0.json", {"client_id": [0], "kid": [9.0]})
        for path, columns in tables.items():
            tracker.log_table(path, columns)


def rows_of(store: TrackingConfig, name: str) -> list[Row]:
    _, runs = sweep_runs(store, [name])
    return client_rows(store, [with_finals(store, whole(run)) for run in runs])


def test_rows_hold_the_tables_of_every_run(store: TrackingConfig) -> None:
    rows = rows_of(store, "study")
    head = ("method", "adapt.lr", "clients", "client_id", "kid", "kid_after", "tv_after", "mia_auc")
    assert [tuple(row.get(column) for column in head) for row in rows] == [
        ("spire", "0.02", "pretraining", 0, 0.5, None, None, None),
        ("spire", "0.02", "new", 7, None, 0.125, 0.3, 0.5),
        ("spire", "0.02", "new", 8, None, 0.075, 0.1 + 0.2, 0.9),
        ("local", "0.1", "new", 7, None, 1.0, None, None),
        ("local", "0.1", "new", 8, None, 2.0, None, None),
    ]
    assert {row["seed"] for row in rows} == {4}
    ps = [(r.get("nn_p"), r.get("nn_p_copies"), r.get("precision_copies")) for r in rows]
    assert ps == [(None,) * 3, *[(0.25, 0.0001, 1.0)] * 2, (None,) * 3, (None,) * 3]
    assert {row["state_fingerprint"] for row in rows} == {"s-spire", "s-local"}
    costs = ("comm.up_kb_per_client_round", "comm.total_mb", "time.round_s")
    found = {tuple(row[column] for column in costs) for row in rows if row["method"] == "spire"}
    assert found == {(2.0, 0.03, 0.5)}  # 4 kB of two clients; 30 kB in three rounds
    assert len({row["run_id"] for row in rows}) == 2
    # It is the same in both, and the default or not.
    assert "federation.num_new_clients" in rows[0]
    assert "client.batch_size" not in rows[0]


def test_runs_without_tables_are_no_rows(store: TrackingConfig) -> None:
    with pytest.raises(RunError, match=r"scores of 2 new clients of run .*, got 0: wait"):
        rows_of(store, "fedavg")


def test_a_sweep_tests_what_its_own_run_recorded(store: TrackingConfig, tmp_path: Path) -> None:
    report = make_report(store, ["study"], tmp_path)
    text = "Primary: new clients' KID, local against spire: one pair, which is no comparison."
    assert report.answers[0] == text
    assert report.tables[0].name == "primary"
    (row,) = report.tables[0].rows
    assert row[report.tables[0].columns.index("ratio")] == "15"
    assert "primary" not in [picture.name for picture in report.pictures], "it has no interval"
    unnamed = make_report(store, ["fedavg"], tmp_path / "other")
    assert unnamed.table("primary") is None
