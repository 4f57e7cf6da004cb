"""Delivery into a real sqlite store through faults: every entry once, or kept and named."""

import json
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from pipeline.cli.sync import sync_runs
from pipeline.config.schema import Config
from pipeline.config.tracking import TrackingConfig, tracking_uri
from pipeline.runs.layout import OUTBOX, REFUSED
from pipeline.tracking import relay
from pipeline.tracking import tracker as tracker_module
from pipeline.tracking.mlflow_session import create_run
from pipeline.tracking.mlflow_sink import MlflowSink
from pipeline.tracking.outbox import (
    Outbox,
    entries,
    num_waiting,
    read_cursor,
    read_points,
    write_cursor,
)
from pipeline.tracking.relay import RelayThread
from pipeline.tracking.tracker import Tracker, check_store, note_end, relay_rest
from spire_core.errors import RunError, StoreError


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make short pauses."""
    monkeypatch.setattr(relay, "PAUSES_S", (0.01, 0.02))
    monkeypatch.setattr(relay, "LINGER_S", 0.01)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, new_database: Path) -> TrackingConfig:
    root = tmp_path_factory.mktemp("outbox")
    shutil.copy(new_database, root)
    return TrackingConfig(root=str(root), uri=f"sqlite:///{root}/mlflow.db")


def history(config: TrackingConfig, run_dir: Path) -> dict[str, list[tuple[int, int, float]]]:
    """All that the store has of each metric: (timestamp, step, value), in its own order."""
    client, run_id = MlflowClient(tracking_uri(config)), run_dir.name
    keys = client.get_run(run_id).data.metrics
    found = {key: client.get_metric_history(run_id, key) for key in keys}
    return {k: [(m.timestamp, m.step, m.value) for m in metrics] for k, metrics in found.items()}


def told(run_dir: Path) -> dict[str, list[tuple[int, int, float]]]:
    """The same of what the run told."""
    found: dict[str, list[tuple[int, int, float]]] = {}
    for entry, _ in entries(run_dir):
        for key, value in entry.get("metrics", {}).items():
            found.setdefault(key, []).append((entry["time_ms"], entry["step"], value))
    return found


def waiting(store: TrackingConfig) -> Tracker:
    """A new run whose entries stay in its outbox."""
    tracker = Tracker.start(store, "waiting", {})
    tracker.leave()
    return Tracker(tracker.run_id, tracker.run_dir)


def aside(run_dir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run_dir / REFUSED).read_text().splitlines()]


def log_model(tracker: Tracker) -> None:
    model = tracker.run_dir / "model"
    model.mkdir(exist_ok=True)
    (model / "config.json").write_text(json.dumps({"config": Config().as_dict()}))
    tracker.log_model(model, (1, 8, 8))


def everything(tracker: Tracker) -> None:
    """Log one entry of each kind, and first the one that takes the longest to send again."""
    log_model(tracker)
    image = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)
    tracker.log_params({"p": 1})
    tracker.log_tags({"t": "1"})
    tracker.log_metrics({"a": 1.0}, 0)
    tracker.log_image("samples/all", image, 0)
    tracker.log_dict({"x": 1}, "config/x.yaml")
    tracker.log_table("tables/kid.json", pd.DataFrame({"client_id": [0, 1]}))
    tracker.log_dataset("mnist", "ab" * 32, 2)


def contents(config: TrackingConfig, run_dir: Path) -> dict[str, Any]:
    """All that the store has of a run."""
    client, run_id = MlflowClient(tracking_uri(config)), run_dir.name
    run = client.get_run(run_id)
    folders = ["", "images", "config", "tables"]
    models = client.search_logged_models([run.info.experiment_id])
    return {
        "history": history(config, run_dir),
        "files": sorted(a.path for f in folders for a in client.list_artifacts(run_id, f)),
        "params": run.data.params,
        "tags": run.data.tags,
        "end": (run.info.status, run.info.end_time),
        "inputs": [d.dataset.digest for d in run.inputs.dataset_inputs],
        "outputs": [o.model_id for o in run.outputs.model_outputs],
        "models": [(m.model_id, str(m.status)) for m in models if m.source_run_id == run_id],
    }


# ------------------------------------------------------------------------------ each entry is once


def test_entries_that_are_sent_again_change_nothing(store: TrackingConfig) -> None:
    """As after a crash between sending and writing the cursor, wherever it comes."""
    with Tracker.start(store, "again", {}) as tracker:
        everything(tracker)
    run_dir, before = tracker.run_dir, contents(store, tracker.run_dir)
    assert len(before["files"]) == 7  # with their folders
    assert len(before["models"]) == 1
    for offset in (0, *(after for _, after in entries(run_dir))):
        write_cursor(run_dir, offset, tracking_uri(store))
        (synced,) = sync_runs(store, [run_dir])
        assert (synced["num_waiting"], synced["num_refused"], synced["problem"]) == (0, 0, None)
        assert contents(store, run_dir) == before


def test_rounds_lost_with_the_power_and_computed_again_are_there_once(
    store: TrackingConfig,
) -> None:
    image = np.zeros((4, 5, 3), np.uint8)
    with Tracker.start(store, "power", {}) as tracker:
        for step in range(6):
            tracker.log_metrics({"a": float(step)}, step)
        tracker.log_params({"same": 1})
        tracker.log_image("samples/all", image, 5)
    before = contents(store, tracker.run_dir)
    kept = (tracker.run_dir / OUTBOX).read_bytes().splitlines(keepends=True)[:3]
    (tracker.run_dir / OUTBOX).write_bytes(b"".join(kept))
    time.sleep(0.005)
    with Tracker.resume(store, tracker.run_dir) as resumed:
        for step in range(3, 7):
            resumed.log_metrics({"a": step + 0.5}, step)
        resumed.log_params({"same": 1, "new": 4})
        resumed.log_image("samples/all", image, 5)
    found = [(step, value) for _, step, value in history(store, tracker.run_dir)["a"]]
    assert found == [*((step, float(step)) for step in range(6)), (6, 6.5)]
    after = contents(store, tracker.run_dir)
    assert (after["files"], after["end"][0]) == (before["files"], "FINISHED")
    assert after["params"] == {"same": "1", "new": "4"}


LOG = """
import sys, time
from pipeline.config.tracking import TrackingConfig
from pipeline.tracking.tracker import Tracker
tracker = Tracker.start(TrackingConfig(root=sys.argv[1], uri=sys.argv[2]), "killed", {})
print(tracker.run_dir, flush=True)
for step in range(100000):
    tracker.log_metrics({"a": step * 0.5, "b": 1.0}, step)
    time.sleep(0.001)
"""


def test_a_process_killed_while_it_logs_loses_and_doubles_nothing(store: TrackingConfig) -> None:
    command = [sys.executable, "-c", LOG, str(store.root), str(store.uri)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        run_dir = Path(process.stdout.readline().strip())
        while read_cursor(run_dir)[0] < 5000:
            time.sleep(0.01)
        time.sleep(random.Random(0).random() * 0.5)
        process.send_signal(signal.SIGKILL)
    (synced,) = sync_runs(store, [run_dir])
    assert (synced["num_waiting"], synced["num_refused"], synced["problem"]) == (0, 0, None)
    assert history(store, run_dir) == told(run_dir)
    with Tracker.resume(store, run_dir) as resumed:  # from a checkpoint of 20 rounds before
        last = read_points(run_dir)[-1][0]
        for step in range(last - 20, last + 5):
            resumed.log_metrics({"a": step * 0.5, "b": 1.0}, step)
    assert history(store, run_dir) == told(run_dir)
    assert [(step, value) for _, step, value in history(store, run_dir)["a"]] == [
        (step, step * 0.5) for step in range(last + 5)
    ]


REQUESTS = ("get_run", "get_metric_history", "list_artifacts", "log_batch", "log_artifact")
REQUESTS += ("set_tag", "set_terminated", "update_run")


class FlakyClient(MlflowClient):
    """Fails a third of the requests, half of them after the store has done what they ask for."""

    def __init__(self, uri: str) -> None:
        super().__init__(uri)
        self.random = random.Random(0)
        for name in REQUESTS:
            setattr(self, name, self._flaky(getattr(self, name)))

    def _flaky(self, request: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **more: Any) -> Any:
            chance = self.random.random()
            if chance < 1 / 6:
                raise MlflowException("lost on the way")
            answer = request(*args, **more)
            if chance < 1 / 3:
                raise MlflowException("the answer is lost")
            return answer

        return call


def test_behind_a_store_that_fails_a_third_of_the_requests_all_arrives_once(
    store: TrackingConfig,
) -> None:
    tracker = waiting(store)
    run_dir = tracker.run_dir
    for step in range(6):
        tracker.log_metrics({f"m{i}": step * 0.5 for i in range(50)}, step)
        tracker.log_dict({"step": step}, f"{step}.json")
    tracker.finish()
    sink = MlflowSink(FlakyClient(str(store.uri)), tracker.run_id, run_dir)
    assert RelayThread(run_dir, sink).close(120) == 0
    assert history(store, run_dir) == told(run_dir)
    client = MlflowClient(store.uri)
    assert len(client.list_artifacts(tracker.run_id)) == 6
    assert client.get_run(tracker.run_id).info.status == "FINISHED"


def test_a_run_that_mlflow_has_created_twice_is_there_once(store: TrackingConfig) -> None:
    """It repeats a request whose answer is lost."""
    client, create = MlflowClient(store.uri), MlflowClient(store.uri).create_run

    def twice(*args: Any, **more: Any) -> Any:
        create(*args, **more)
        return create(*args, **more)

    client.create_run = twice  # type: ignore[method-assign]
    run_id = create_run(client, "0", "once", {"a": "b"})
    [found] = MlflowClient(store.uri).search_runs(["0"])
    assert (found.info.run_id, found.info.run_name, found.data.tags["a"]) == (run_id, "once", "b")


# ------------------------------------------------------------------------- what is taken, and when


def wait_for_all(run_dir: Path) -> None:
    deadline = time.monotonic() + 60  # a busy machine asks late
    while num_waiting(run_dir):
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.slow
def test_a_locked_database_delays_the_record_and_not_the_run(
    tmp_path: Path,
    new_database: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(tracker_module, "FINISH_WAIT_S", 0.5)
    shutil.copy(new_database, tmp_path)
    config = TrackingConfig(root=str(tmp_path), uri=f"sqlite:///{tmp_path}/mlflow.db")
    tracker = Tracker.start(config, "locked", {})
    with sqlite3.connect(tmp_path / "mlflow.db", isolation_level=None) as other:
        other.execute("BEGIN EXCLUSIVE")
        with tracker:
            began = time.monotonic()
            for step in range(100):
                tracker.log_metrics({"a": float(step)}, step)
            assert time.monotonic() - began < 5
        assert time.monotonic() - began < 10
        with pytest.raises(StoreError, match="database is locked"):
            check_store(config)
        assert f"101 entries of run {tracker.run_id} wait for its store: `spire sync" in caplog.text
        other.execute("COMMIT")
    other.close()
    (synced,) = sync_runs(config, [tracker.run_dir])
    assert (synced["num_waiting"], synced["num_refused"]) == (0, 0)
    assert history(config, tracker.run_dir) == told(tracker.run_dir)
    assert MlflowClient(config.uri).get_run(tracker.run_id).info.status == "FINISHED"


def test_a_run_that_is_deleted_meanwhile_refuses_all(store: TrackingConfig) -> None:
    with Tracker.start(store, "deleted", {}) as tracker:
        tracker.log_metrics({"a": 1.0}, 0)
        wait_for_all(tracker.run_dir)
        MlflowClient(tracking_uri(store)).delete_run(tracker.run_id)
        tracker.log_metrics({"a": 2.0}, 1)
    assert [one["kind"] for one in aside(tracker.run_dir)] == ["metrics", "status"]
    with pytest.raises(RunError, match=r"expected run .* got deleted"):
        Tracker.resume(store, tracker.run_dir)


# ------------------------------------------------------------------------------------------ sync


def test_the_end_of_a_run_whose_process_is_gone(store: TrackingConfig) -> None:
    with Tracker.start(store, "gone", {}) as tracker:
        tracker.log_metrics({"a": 0.0}, 0)
    lines = (tracker.run_dir / OUTBOX).read_bytes().splitlines(keepends=True)
    (tracker.run_dir / OUTBOX).write_bytes(b"".join(lines[:-1]))
    client = MlflowClient(tracking_uri(store))
    client.update_run(tracker.run_id, status="RUNNING")
    Outbox(tracker.run_dir).append_points([(1, {"a": 1.0})])
    note_end(tracker.run_dir, store, "KILLED")
    note_end(tracker.run_dir, store, "FAILED")
    relay_rest(tracker.run_dir, store)
    assert client.get_run(tracker.run_id).info.status == "KILLED"
    assert len(history(store, tracker.run_dir)["a"]) == 2
