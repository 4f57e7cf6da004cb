"""Delivery through outages of a database, of a whole store, and of the run's own folder."""

import shutil
import sqlite3
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import requests
import sqlalchemy.exc
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import BAD_REQUEST

from pipeline.config.tracking import TrackingConfig
from pipeline.runs.layout import DONE, OUTBOX_LOCK, REFUSED
from pipeline.tracking import mlflow_errors, relay, relay_thread
from pipeline.tracking.mlflow_sink import MlflowSink
from pipeline.tracking.outbox import Entry, Outbox, num_waiting
from pipeline.tracking.relay import relay_all
from pipeline.tracking.relay_thread import RelayThread
from pipeline.tracking.tracker import Tracker


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Make short pauses, or none."""
    monkeypatch.setattr(mlflow_errors, "PAUSES_S", (0.0, 0.0, 0.0))
    monkeypatch.setattr(relay, "SYNC_DELAYS_S", (0.0, 0.0, 0.0))
    monkeypatch.setattr(relay_thread, "LINGER_S", 0.01)
    monkeypatch.setattr(relay_thread, "RETRY_DELAYS_S", (0.01, 0.02))
    caplog.set_level("INFO", "pipeline")


@pytest.fixture
def config(tmp_path: Path, new_database: Path) -> TrackingConfig:
    shutil.copy(new_database, tmp_path)
    return TrackingConfig(root=str(tmp_path), uri=f"sqlite:///{tmp_path}/mlflow.db")


def stored_points(uri: str, run_id: str) -> list[tuple[int, float]]:
    """Return the steps and values that the database has of a run's only metric."""
    with sqlite3.connect(uri.removeprefix("sqlite:///")) as database:
        found = database.execute("SELECT step, value FROM metrics WHERE run_uuid=?", (run_id,))
        return sorted(found.fetchall())


class Refusing(MlflowClient):
    """Answers the first requests for metrics with a bad request of the database's error."""

    def __init__(self, uri: str, error: Exception, num_failures: int) -> None:
        super().__init__(uri)
        self.error, self.num_left = error, num_failures

    def log_batch(self, *args: Any, **more: Any) -> None:
        if self.num_left:
            self.num_left -= 1
            raise MlflowException(str(self.error), error_code=BAD_REQUEST)
        super().log_batch(*args, **more)


def fault(kind: type[sqlalchemy.exc.DBAPIError], text: str) -> Exception:
    """Return a driver's error as SQLAlchemy words it."""
    driver = type(kind.__name__, (Exception,), {"__module__": "psycopg2"})
    return kind("INSERT INTO metrics (key)", {"key": "a"}, driver(text))


PASSING = [
    fault(sqlalchemy.exc.InterfaceError, "connection already closed"),
    fault(sqlalchemy.exc.InternalError, "cannot execute INSERT in a read-only transaction"),
    sqlalchemy.exc.PendingRollbackError(
        "Can't reconnect until invalid transaction is rolled back.", code="8s2b"
    ),
    sqlalchemy.exc.TimeoutError("QueuePool limit of size 5 overflow 10 reached", code="3o7r"),
]
LASTING = [
    fault(sqlalchemy.exc.IntegrityError, "duplicate key"),
    fault(sqlalchemy.exc.DataError, "value too long"),
    fault(sqlalchemy.exc.ProgrammingError, "column does not exist"),
    ValueError("a bad request of no database"),
]


@pytest.mark.parametrize("error", PASSING, ids=lambda error: type(error).__name__)
def test_a_database_that_fails_for_a_while_loses_nothing(
    error: Exception, config: TrackingConfig
) -> None:
    tracker = Tracker.start(config, "failing over", {})
    tracker.leave()
    Outbox(tracker.run_dir).append_points([(0, {"a": 1.0})])
    client = Refusing(str(config.uri), error, num_failures=6)
    assert relay_all(tracker.run_dir, MlflowSink(client, tracker.run_id, tracker.run_dir))[0] == 1
    assert stored_points(str(config.uri), tracker.run_id) == [(0, 1.0)]
    assert not (tracker.run_dir / REFUSED).exists()


@pytest.mark.parametrize("error", LASTING, ids=lambda error: type(error).__name__)
def test_what_a_database_cannot_hold_is_put_aside(error: Exception, config: TrackingConfig) -> None:
    tracker = Tracker.start(config, "cannot hold", {})
    tracker.leave()
    Outbox(tracker.run_dir).append_points([(0, {"a": 1.0})])
    client = Refusing(str(config.uri), error, num_failures=100)
    sink = MlflowSink(client, tracker.run_id, tracker.run_dir)
    assert relay_all(tracker.run_dir, sink) == (0, None)
    assert client.num_left == 99
    assert len((tracker.run_dir / REFUSED).read_text().splitlines()) == 1


def log_of_each_kind(tracker: Tracker) -> None:
    tracker.log_params({"p": 1})
    tracker.log_tags({"t": "1"})
    tracker.log_metrics({"a": 1.0}, 0)
    tracker.log_dict({"x": 1}, "x.yaml")
    tracker.log_table("table.json", {"client_id": [0, 1]})
    tracker.log_image("samples", np.zeros((4, 5, 3), np.uint8), 0)
    data = np.zeros((2, 1, 4, 4)), np.arange(2)
    tracker.log_dataset(*data, name="mnist", sha256="ab" * 32, context="pretrain")


def test_a_store_that_comes_back_without_the_run_loses_nothing(
    config: TrackingConfig,
    tmp_path: Path,
    new_database: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    tracker = Tracker.start(config, "moved", {})
    tracker.log_metrics({"a": 0.0}, 1)
    assert tracker.flush()
    assert tracker._relay is not None
    sink, client = cast(MlflowSink, tracker._relay.sink), MlflowClient(config.uri)
    sink._client = MlflowClient(f"sqlite:///{shutil.copy(new_database, tmp_path / 'other.db')}")
    log_of_each_kind(tracker)
    tracker.log_metrics({"a": 2.0}, 2)
    end = time.monotonic() + 60.0  # a busy machine asks late
    while not caplog.records and time.monotonic() < end:
        assert not tracker.flush(0.5)
    sink._client = client
    tracker.finish()
    assert (num_waiting(tracker.run_dir), (tracker.run_dir / REFUSED).exists()) == (0, False)
    run = client.get_run(tracker.run_id)
    assert (run.data.params, run.data.tags["t"], run.info.status) == ({"p": "1"}, "1", "FINISHED")
    assert stored_points(str(config.uri), tracker.run_id) == [(0, 1.0), (1, 0.0), (2, 2.0)]
    files = {artifact.path for artifact in client.list_artifacts(tracker.run_id)}
    assert (files, len(run.inputs.dataset_inputs)) == ({"x.yaml", "table.json", "images"}, 1)
    missing, there = (record.getMessage() for record in caplog.records)
    assert missing.startswith(f"run {tracker.run_id}: its store does not know it (Run with id=")
    assert missing.endswith(f" not found): all is kept in {tracker.run_dir} until it does")
    assert there == f"run {tracker.run_id}: its store knows it again"


def test_a_place_of_files_that_a_proxy_does_not_find_may_come_back(
    config: TrackingConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracker = Tracker.start(config, "not found", {})
    tracker.leave()
    tracker.log_dict({"x": 1}, "x.yaml")
    tracker.log_metrics({"a": 1.0}, 0)
    answer = requests.Response()
    answer.status_code = 404
    client = MlflowClient(config.uri)

    def not_found(*_: object) -> None:
        raise requests.HTTPError("404 Client Error", response=answer)

    sink = MlflowSink(client, tracker.run_id, tracker.run_dir)
    with monkeypatch.context() as patch:
        patch.setattr(client, "log_artifact", not_found)
        assert relay_all(tracker.run_dir, sink) == (1, "404 Client Error")
    assert stored_points(str(config.uri), tracker.run_id) == [(0, 1.0)]
    assert relay_all(tracker.run_dir, sink) == (1, None)
    assert [file.path for file in client.list_artifacts(tracker.run_id)] == ["x.yaml"]


class Taking:
    """A sink that takes everything, except metrics named `bad`."""

    address = "sink"

    def __init__(self) -> None:
        self.entries: list[Entry] = []

    def send(self, entries: Sequence[Entry]) -> None:
        if any("bad" in entry.get("metrics", ()) for entry in entries):
            raise relay.Refusal("bad is no name")
        self.entries += entries

    def is_retryable(self, error: Exception) -> bool:
        return not isinstance(error, relay.Refusal)


@pytest.mark.parametrize(("name", "blocked"), [("good", f"{DONE}.part"), ("bad", REFUSED)])
def test_a_fault_of_the_runs_own_folder_is_called_one(
    name: str, blocked: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Outbox(tmp_path).append_points([(0, {name: 1.0})])
    (tmp_path / blocked).mkdir()  # a file of this name cannot be written
    path = tmp_path / blocked.removesuffix(".part")
    sink, fault = Taking(), f"Is a directory: {path}"
    assert relay_all(tmp_path, sink)[1] == fault
    thread = RelayThread(tmp_path, sink, "r")
    assert thread.flush(0.5) == 1
    (tmp_path / blocked).rmdir()
    assert thread.close(30) == 0
    folder = "run r: its folder"
    shown = [r.getMessage() for r in caplog.records if "refuses" not in r.getMessage()]
    assert shown == [
        f"{folder} cannot be written ({fault}): what its store has taken is counted when it can",
        f"{folder} can be written again",
    ]


def test_a_folder_that_cannot_be_locked_for_a_while_loses_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Outbox(tmp_path).append_points([(0, {"a": 1.0})])
    lock, sink = tmp_path / OUTBOX_LOCK, Taking()
    lock.mkdir()
    thread = RelayThread(tmp_path, sink, "r")
    assert thread.flush(0.5) == 1
    lock.rmdir()
    assert thread.close(30) == 0
    assert [entry["step"] for entry in sink.entries] == [0]
    first, last = [record.getMessage() for record in caplog.records]
    assert first.startswith("run r: its folder cannot be used (")
    assert first.endswith(f"): all waits in {tmp_path} until it can")
    assert str(lock) in first
    assert last == "run r: its folder can be used again"


def test_what_is_sent_but_uncounted_is_sent_once(tmp_path: Path) -> None:
    outbox, sink = Outbox(tmp_path), Taking()
    outbox.append_points([(0, {"a": 1.0})])
    (tmp_path / f"{DONE}.part").mkdir()
    one = relay.Relay(tmp_path, sink)
    for _ in range(3):
        with pytest.raises(relay.FolderError):
            one.send_all()
    outbox.append_points([(1, {"a": 1.0})])
    (tmp_path / f"{DONE}.part").rmdir()
    one.send_all()
    assert [entry["step"] for entry in sink.entries] == [0, 1]
    assert num_waiting(tmp_path) == 0
