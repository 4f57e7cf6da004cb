"""Delivery where requests fail, entries are malformed, or files have no place: the rest goes on."""

import json
import random
import shutil
import sqlite3
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from pipeline.config.tracking import TrackingConfig
from pipeline.runs.layout import DONE, REFUSED
from pipeline.tracking import mlflow_errors, relay, relay_thread
from pipeline.tracking.mlflow_session import create_run
from pipeline.tracking.mlflow_sink import MlflowSink
from pipeline.tracking.outbox import Entry, Outbox, num_waiting, read_done, read_held
from pipeline.tracking.relay import relay_all
from pipeline.tracking.tracker import Tracker


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make no pause between tries."""
    monkeypatch.setattr(mlflow_errors, "PAUSES_S", (0.0, 0.0, 0.0))
    monkeypatch.setattr(relay, "SYNC_DELAYS_S", (0.0, 0.0, 0.0))


@pytest.fixture
def config(tmp_path: Path, new_database: Path) -> TrackingConfig:
    shutil.copy(new_database, tmp_path)
    return TrackingConfig(root=str(tmp_path), uri=f"sqlite:///{tmp_path}/mlflow.db")


REQUESTS = ("get_run", "get_metric_history", "list_artifacts", "log_batch", "log_artifact")
REQUESTS += ("set_tag", "set_terminated", "update_run", "create_run", "search_runs")


class FlakyClient(MlflowClient):
    """Fails some requests, half of them after the store has done what they ask for."""

    def __init__(self, uri: str, share: float, seed: int = 0) -> None:
        super().__init__(uri)
        self.share, self.random = share, random.Random(seed)
        self.num_calls = Counter[str]()
        for name in REQUESTS:
            setattr(self, name, self._flaky(name, getattr(self, name)))

    def _flaky(self, name: str, request: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **more: Any) -> Any:
            self.num_calls[name] += 1
            chance = self.random.random()
            if chance < self.share / 2:
                raise MlflowException("lost on the way")
            answer = request(*args, **more)
            if chance < self.share:
                raise MlflowException("the answer is lost")
            return answer

        return call


def stored_points(uri: str, run_id: str) -> list[tuple[str, int, float]]:
    """Return all rows of metrics that the database has of a run."""
    with sqlite3.connect(uri.removeprefix("sqlite:///")) as database:
        found = database.execute("SELECT key, step, value FROM metrics WHERE run_uuid=?", (run_id,))
        return sorted(found.fetchall())


@pytest.mark.parametrize("is_new", [True, False])
def test_behind_a_store_that_fails_a_third_of_the_requests_all_arrives_once(
    is_new: bool, config: TrackingConfig
) -> None:
    tracker = Tracker.start(config, "flaky", {})
    tracker.leave()
    outbox, names = Outbox(tracker.run_dir), [f"m{i}" for i in range(50)]
    for step in range(6):
        outbox.append_points([(step, dict.fromkeys(names, step * 0.5))])
        (tracker.run_dir / "artifacts").mkdir(exist_ok=True)
        (tracker.run_dir / "artifacts" / f"{step}.txt").write_text("x")
        outbox.append("file", file=f"{step}.txt")
    outbox.append("status", status="FINISHED")
    client, run_id = FlakyClient(str(config.uri), 0.3), tracker.run_id
    sink = MlflowSink(client, run_id, tracker.run_dir, is_new)
    assert relay_all(tracker.run_dir, sink) == (13, None)
    assert num_waiting(tracker.run_dir) == 0
    points = [(name, step, step * 0.5) for name in names for step in range(6)]
    assert stored_points(str(config.uri), run_id) == sorted(points)
    plain = MlflowClient(config.uri)
    assert len(plain.list_artifacts(run_id)) == 6
    assert plain.get_run(run_id).info.status == "FINISHED"


def test_a_history_is_asked_for_if_its_points_may_be_there_and_kept(config: TrackingConfig) -> None:
    with Tracker.start(config, "asked", {}) as tracker:
        for step in (0, 5):
            tracker.log_metrics({"a": 1.0, "b": 1.0}, step)
    client = FlakyClient(str(config.uri), 0.0)
    sink = MlflowSink(client, tracker.run_id, tracker.run_dir)
    outbox = Outbox(tracker.run_dir)
    outbox.append_points([(3, {"b": 1.0})])  # as if lines that had been delivered were lost
    for step in range(6, 9):
        outbox.append_points([(step, {"a": 1.0, "new": 1.0})])
        assert relay_all(tracker.run_dir, sink)[1] is None
    assert (client.num_calls["get_run"], client.num_calls["get_metric_history"]) == (1, 1)
    log_batch = client.log_batch

    def lost(*args: Any, **more: Any) -> None:
        log_batch(*args, **more)
        client.log_batch = log_batch  # type: ignore[method-assign]
        raise MlflowException("the answer is lost")

    client.log_batch = lost  # type: ignore[method-assign]
    outbox.append_points([(9, {"a": 1.0, "other": 1.0})])
    assert relay_all(tracker.run_dir, sink) == (1, None)
    # The newest steps first, then the histories of the two that were in doubt.
    assert (client.num_calls["get_run"], client.num_calls["get_metric_history"]) == (2, 3)
    steps = [
        step for name, step, _ in stored_points(str(config.uri), tracker.run_id) if name == "a"
    ]
    assert steps == [0, 5, 6, 7, 8, 9]


BAD = {
    "a step of 70 bits": {"kind": "metrics", "time_ms": 1, "step": 1 << 70, "metrics": {"a": 1.0}},
    "a time of 80 bits": {"kind": "metrics", "time_ms": 1 << 80, "step": 1, "metrics": {"a": 1.0}},
    "a number without end": {"kind": "metrics", "time_ms": 1, "step": 1, "metrics": {"a": 10**400}},
    "half a character": {"kind": "tags", "time_ms": 1, "tags": {"t": "\ud800"}},
    "an unknown status": {"kind": "status", "time_ms": 1, "status": "GONE"},
}


@pytest.mark.parametrize("what", BAD)
def test_an_entry_that_no_store_can_hold_is_put_aside(what: str, config: TrackingConfig) -> None:
    tracker = Tracker.start(config, "bad", {})
    tracker.leave()
    outbox = Outbox(tracker.run_dir)
    outbox.append_points([(0, {"a": 1.0})])
    with outbox.path.open("a") as file:
        file.write(json.dumps(BAD[what]) + "\n")
    outbox.append_points([(2, {"a": 1.0})])
    sink = MlflowSink(MlflowClient(config.uri), tracker.run_id, tracker.run_dir, is_new=True)
    assert relay_all(tracker.run_dir, sink) == (2, None)
    assert [step for _, step, _ in stored_points(str(config.uri), tracker.run_id)] == [0, 2]
    [line] = (tracker.run_dir / REFUSED).read_text().splitlines()
    assert {k: v for k, v in json.loads(line).items() if k != "reason"} == BAD[what]


class Place:
    """A sink whose files fail with `error`, and which takes all the rest."""

    address = "place"

    def __init__(self, error: Exception | None) -> None:
        self.error, self.taken = error, list[Any]()

    def send(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            if self.error is not None and entry["kind"] in ("file", "image"):
                raise self.error
            self.taken.append(entry.get("file", entry.get("step", entry.get("status"))))

    def is_retryable(self, error: Exception) -> bool:
        return True


def fill(run_dir: Path) -> None:
    """Write numbers 0 to 2, two files between them, and the end."""
    outbox = Outbox(run_dir)
    outbox.append_points([(0, {"a": 1.0})])
    outbox.append("file", file="x")
    outbox.append_points([(1, {"a": 1.0})])
    outbox.append("image", file="y", key="k", step=1)
    outbox.append_points([(2, {"a": 1.0})])
    outbox.append("status", status="FINISHED")


def test_numbers_go_on_where_files_have_no_place(tmp_path: Path) -> None:
    fill(tmp_path)
    sink = Place(PermissionError("read-only"))
    assert relay_all(tmp_path, sink) == (4, "read-only")
    assert sink.taken == [0, 1, 2, "FINISHED"]
    assert (read_done(tmp_path), read_held(tmp_path), num_waiting(tmp_path)) == (6, [1, 3], 2)
    Outbox(tmp_path).append("file", file="z")
    sink = Place(None)  # of a later process
    assert relay_all(tmp_path, sink) == (3, None)
    assert sink.taken == ["x", "y", "z"]
    assert (tmp_path / DONE).read_text() == "7\nplace\n"


def test_a_run_sends_its_numbers_while_its_files_have_no_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(relay_thread, "LINGER_S", 0.01)
    monkeypatch.setattr(relay_thread, "RETRY_DELAYS_S", (0.01, 0.02))
    caplog.set_level("INFO", "pipeline")
    fill(tmp_path)
    sink = Place(PermissionError("read-only"))
    thread = relay_thread.RelayThread(tmp_path, sink, "r")
    assert thread.flush(0.5) == 2
    Outbox(tmp_path).append_points([(3, {"a": 1.0})])
    thread.notify()
    assert thread.flush(0.5) == 2
    assert sink.taken == [0, 1, 2, "FINISHED", 3]
    sink.error = None
    assert thread.close(30) == 0
    assert sink.taken == [0, 1, 2, "FINISHED", 3, "x", "y"]
    subject = "run r: the place of its files"
    assert [r.getMessage() for r in caplog.records] == [
        f"{subject} does not answer (read-only): all is kept in {tmp_path} until it does",
        f"{subject} answers again",
    ]


def test_files_that_can_be_sent_go_before_the_end(tmp_path: Path) -> None:
    fill(tmp_path)
    sink = Place(None)
    assert relay_all(tmp_path, sink) == (6, None)
    assert sink.taken == [0, "x", 1, "y", 2, "FINISHED"]


def test_a_bare_exception_is_final_after_some_tries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "SYNC_DELAYS_S", (0.0,) * relay.MAX_BARE_TRIES)
    fill(tmp_path)
    sink = Place(Exception("what?"))
    assert relay_all(tmp_path, sink) == (4, None)
    lines = [json.loads(line) for line in (tmp_path / REFUSED).read_text().splitlines()]
    assert [(line["file"], line["reason"]) for line in lines] == [("x", "what?"), ("y", "what?")]


@pytest.mark.parametrize("is_done", [True, False])
def test_a_run_whose_creation_is_not_answered_is_created_once(
    is_done: bool, config: TrackingConfig
) -> None:
    client = FlakyClient(str(config.uri), 0.0)
    create, num_calls = client.create_run, Counter[str]()

    def lost(*args: Any, **more: Any) -> Any:
        num_calls["create"] += 1
        if num_calls["create"] > 1:
            return create(*args, **more)
        if is_done:
            create(*args, **more)
        raise MlflowException("the answer is lost")

    client.create_run = lost  # type: ignore[method-assign]
    run = create_run(client, "0", "once", {"a": "b"})
    assert (run.info.run_name, run.data.tags["a"]) == ("once", "b")
    found = MlflowClient(config.uri).search_runs(["0"])
    assert [(r.info.run_id, r.info.status) for r in found] == [(run.info.run_id, "RUNNING")]
