"""Delivery into a real sqlite store through faults: every entry once, or kept and named."""

import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import requests
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import BAD_REQUEST, INVALID_PARAMETER_VALUE

from pipeline.cli.main import main
from pipeline.cli.sync import sync_runs
from pipeline.config.tracking import TrackingConfig, tracking_uri
from pipeline.runs.layout import OUTBOX, OUTBOX_LOCK, REFUSED
from pipeline.tracking import relay
from pipeline.tracking import tracker as tracker_module
from pipeline.tracking.mlflow_session import create_run
from pipeline.tracking.mlflow_sink import MlflowSink
from pipeline.tracking.outbox import (
    Outbox,
    lines,
    num_refused,
    num_waiting,
    read_cursor,
    read_entries,
    read_points,
    write_cursor,
)
from pipeline.tracking.relay import RelayThread, relay_all
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
    for entry in read_entries(run_dir):
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
    (model / "config.json").write_text("{}")
    tracker.log_model(model, (1, 8, 8))


def everything(tracker: Tracker) -> None:
    """Log one entry of each kind."""
    image = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)
    tracker.log_params({"p": 1})
    tracker.log_tags({"t": "1"})
    tracker.log_metrics({"a": 1.0}, 0)
    tracker.log_image("samples/all", image, 0)
    tracker.log_dict({"x": 1}, "config/x.yaml")
    tracker.log_table("tables/kid.json", {"client_id": [0, 1]})
    tracker.log_dataset(np.zeros((2, 1, 4, 4)), np.arange(2), "mnist", "ab" * 32, "pretrain")
    log_model(tracker)


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


def test_the_store_has_what_was_told_when_it_was_told(store: TrackingConfig) -> None:
    with Tracker.start(store, "read back", {}) as tracker:
        for step in range(250):
            tracker.log_metrics({"a": step / 7, "b": -step, "c": 1e300}, step)
            time.sleep(0.001)
    assert history(store, tracker.run_dir) == told(tracker.run_dir)
    assert [step for _, step, _ in history(store, tracker.run_dir)["a"]] == list(range(250))
    assert (num_waiting(tracker.run_dir), num_refused(tracker.run_dir)) == (0, 0)


def test_entries_that_are_sent_again_change_nothing(store: TrackingConfig) -> None:
    """As after a crash between sending and writing the cursor, wherever it comes."""
    with Tracker.start(store, "again", {}) as tracker:
        everything(tracker)
    run_dir, before = tracker.run_dir, contents(store, tracker.run_dir)
    assert len(before["files"]) == 7  # with their folders
    assert len(before["models"]) == 1
    offset = 0
    for line in lines(run_dir):
        write_cursor(run_dir, offset, tracking_uri(store))
        (synced,) = sync_runs(store, [run_dir])
        assert (synced.num_waiting, synced.num_refused, synced.problem) == (0, 0, None)
        assert contents(store, run_dir) == before
        offset += len(line)


def test_rounds_lost_with_the_power_and_computed_again_are_there_once(
    store: TrackingConfig,
) -> None:
    image = np.zeros((4, 5, 3), np.uint8)
    with Tracker.start(store, "power", {}) as tracker:
        for step in range(6):
            tracker.log_metrics({"a": float(step)}, step)
        tracker.log_image("samples/all", image, 5)
    before = contents(store, tracker.run_dir)
    kept = list(lines(tracker.run_dir))[:3]
    (tracker.run_dir / OUTBOX).write_bytes(b"".join(kept))
    time.sleep(0.005)
    with Tracker.resume(store, tracker.run_dir) as resumed:
        for step in range(3, 7):
            resumed.log_metrics({"a": step + 0.5}, step)
        resumed.log_image("samples/all", image, 5)
    found = [(step, value) for _, step, value in history(store, tracker.run_dir)["a"]]
    assert found == [*((step, float(step)) for step in range(6)), (6, 6.5)]
    assert contents(store, tracker.run_dir)["files"] == before["files"]


def test_a_run_that_goes_on_has_one_model(store: TrackingConfig) -> None:
    tracker = Tracker.start(store, "one model", {})
    log_model(tracker)
    tracker.finish("KILLED")
    with Tracker.resume(store, tracker.run_dir) as resumed:
        log_model(resumed)
    assert len(contents(store, tracker.run_dir)["models"]) == 1


LOG = """
import sys
from pipeline.config.tracking import TrackingConfig
from pipeline.tracking.tracker import Tracker
tracker = Tracker.start(TrackingConfig(root=sys.argv[1], uri=sys.argv[2]), "killed", {})
print(tracker.run_dir, flush=True)
for step in range(100000):
    tracker.log_metrics({"a": step * 0.5, "b": 1.0}, step)
    if step % 50 == 0:
        tracker.flush()
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
    assert (synced.num_waiting, synced.num_refused, synced.problem) == (0, 0, None)
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


@pytest.mark.parametrize("is_new", [True, False])
def test_behind_a_store_that_fails_a_third_of_the_requests_all_arrives_once(
    is_new: bool, store: TrackingConfig
) -> None:
    tracker = waiting(store)
    run_dir = tracker.run_dir
    for step in range(6):
        tracker.log_metrics({f"m{i}": step * 0.5 for i in range(50)}, step)
        tracker.log_dict({"step": step}, f"{step}.json")
    tracker.finish()
    sink = MlflowSink(FlakyClient(str(store.uri)), tracker.run_id, run_dir, is_new)
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
    run = create_run(client, "0", "once", {"a": "b"})
    assert (run.info.run_name, run.data.tags["a"]) == ("once", "b")
    found = MlflowClient(store.uri).search_runs(["0"])
    assert [(r.info.run_id, r.info.status) for r in found] == [(run.info.run_id, "RUNNING")]


# ------------------------------------------------------------------------- what is taken, and when


class Failing(MlflowClient):
    """Fails the first requests for metrics with an error."""

    def __init__(self, uri: str, error: Exception, num_failures: int) -> None:
        super().__init__(uri)
        self.error, self.num_left = error, num_failures

    def log_batch(self, *args: Any, **more: Any) -> None:
        if self.num_left:
            self.num_left -= 1
            raise self.error
        super().log_batch(*args, **more)


@pytest.mark.parametrize(
    "error",
    [
        MlflowException("(sqlite3.OperationalError) database is locked"),
        MlflowException("QueuePool limit of size 5 overflow 10 reached", error_code=BAD_REQUEST),
        ConnectionError("reset"),
        TypeError("a fault of this program's"),
    ],
    ids=["locked", "no connection", "reset", "own fault"],
)
def test_an_error_that_may_pass_loses_nothing(error: Exception, store: TrackingConfig) -> None:
    tracker = waiting(store)
    tracker.log_metrics({"a": 1.0}, 0)
    client = Failing(str(store.uri), error, num_failures=2 * relay.NUM_TRIES)
    sink = MlflowSink(client, tracker.run_id, tracker.run_dir)
    assert relay_all(tracker.run_dir, sink) == (0, str(error))
    assert num_waiting(tracker.run_dir) == 1
    assert relay_all(tracker.run_dir, sink)[0] == 0
    assert relay_all(tracker.run_dir, sink) == (1, None)
    assert history(store, tracker.run_dir) == told(tracker.run_dir)
    assert num_refused(tracker.run_dir) == 0


def test_what_mlflow_never_takes_is_refused_at_once(store: TrackingConfig) -> None:
    tracker = waiting(store)
    tracker.log_metrics({"a": 1.0}, 0)
    error = MlflowException("no such name", error_code=INVALID_PARAMETER_VALUE)
    client = Failing(str(store.uri), error, num_failures=100)
    sink = MlflowSink(client, tracker.run_id, tracker.run_dir, is_new=True)
    assert relay_all(tracker.run_dir, sink) == (0, None)
    assert client.num_left == 99
    assert [one["reason"] for one in aside(tracker.run_dir)] == ["no such name"]


def test_a_wrong_name_is_refused_and_the_rest_arrives(store: TrackingConfig) -> None:
    with Tracker.start(store, "wrong name", {}) as tracker:
        for step in range(5):
            tracker.log_metrics({"what?!" if step == 2 else "a": 1.0}, step)
    assert [step for _, step, _ in history(store, tracker.run_dir)["a"]] == [0, 1, 3, 4]
    [one] = aside(tracker.run_dir)
    assert (one["step"], one["metrics"]) == (2, {"what?!": 1.0})


@pytest.mark.parametrize(("status", "is_final"), [(404, False), (502, False), (413, True)])
def test_an_answer_of_a_server_that_takes_files_may_pass(
    status: int, is_final: bool, store: TrackingConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracker = waiting(store)
    tracker.log_dict({"x": 1}, "x.yaml")
    answer, client = requests.Response(), MlflowClient(store.uri)
    answer.status_code = status

    def fail(*_: object) -> None:
        raise requests.HTTPError(f"{status} Error", response=answer)

    sink = MlflowSink(client, tracker.run_id, tracker.run_dir, is_new=True)
    with monkeypatch.context() as patch:
        patch.setattr(client, "log_artifact", fail)
        assert relay_all(tracker.run_dir, sink) == (0, None if is_final else f"{status} Error")
    assert relay_all(tracker.run_dir, sink) == (0 if is_final else 1, None)
    assert num_refused(tracker.run_dir) == is_final


def test_a_store_that_comes_back_without_the_run_loses_nothing(
    store: TrackingConfig, tmp_path: Path, new_database: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tracker = Tracker.start(store, "moved", {})
    tracker.log_metrics({"a": 0.0}, 1)
    assert tracker.flush()
    assert tracker._relay is not None
    sink, client = cast(MlflowSink, tracker._relay._relay.sink), MlflowClient(store.uri)
    sink._client = MlflowClient(f"sqlite:///{shutil.copy(new_database, tmp_path / 'other.db')}")
    everything(tracker)
    tracker.log_metrics({"a": 2.0}, 2)
    end = time.monotonic() + 60.0  # a busy machine asks late
    while not caplog.records and time.monotonic() < end:
        assert not tracker.flush(0.5)
    sink._client = client
    tracker.finish()
    assert (num_waiting(tracker.run_dir), num_refused(tracker.run_dir)) == (0, 0)
    found = contents(store, tracker.run_dir)
    assert (found["params"], found["tags"]["t"], found["end"][0]) == ({"p": "1"}, "1", "FINISHED")
    assert found["history"] == told(tracker.run_dir)
    assert (len(found["files"]), len(found["inputs"]), len(found["models"])) == (7, 1, 1)
    assert "its store takes no entries (Run with id=" in caplog.records[0].getMessage()


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
        with pytest.raises(StoreError, match="wait until that ends"):
            check_store(config)
        assert f"101 entries of run {tracker.run_id} wait for its store: `spire sync" in caplog.text
        other.execute("COMMIT")
    other.close()
    (synced,) = sync_runs(config, [tracker.run_dir])
    assert (synced.num_waiting, synced.num_refused) == (0, 0)
    assert history(config, tracker.run_dir) == told(tracker.run_dir)
    assert MlflowClient(config.uri).get_run(tracker.run_id).info.status == "FINISHED"


def test_an_outbox_sends_nothing_from_outside_its_run(
    store: TrackingConfig, tmp_path: Path
) -> None:
    (tmp_path / "key").write_text("mine")
    tracker = Tracker.start(store, "planted", {})
    tracker.log_dict({}, "its/own.json")
    tracker.finish()
    (tracker.run_dir / "artifacts" / "link").symlink_to(tmp_path / "key")
    outbox, up = Outbox(tracker.run_dir), os.path.relpath(tmp_path, tracker.run_dir)
    files = [str(tmp_path / "key"), f"../{up}/key", "link", "../run.json"]
    for file in files:
        outbox.append("file", file=file)
        outbox.append("table", file=file)
        outbox.append("image", file=file, key="a", step=0)
    for folder in ("/", str(tmp_path), up):
        outbox.append("model", folder=folder, image_shape=[1, 8, 8], guidance=1.0)
    sync_runs(store, [tracker.run_dir])
    reasons = [one["reason"] for one in aside(tracker.run_dir)]
    assert len(reasons) == 3 * len(files) + 3
    assert all(reason.startswith("expected a path inside") for reason in reasons)
    found = contents(store, tracker.run_dir)
    assert (found["files"], found["models"]) == (["its"], [])


def test_a_run_that_is_deleted_meanwhile_refuses_all(store: TrackingConfig) -> None:
    with Tracker.start(store, "deleted", {}) as tracker:
        tracker.log_metrics({"a": 1.0}, 0)
        assert tracker.flush()
        MlflowClient(tracking_uri(store)).delete_run(tracker.run_id)
        tracker.log_metrics({"a": 2.0}, 1)
        tracker.log_metrics({"a": 3.0}, 2)
    assert [one["kind"] for one in aside(tracker.run_dir)] == ["metrics", "metrics", "status"]
    with pytest.raises(RunError, match=r"expected run .* got deleted"):
        Tracker.resume(store, tracker.run_dir)


# ------------------------------------------------------------------------------------------ sync


def test_a_store_that_does_not_know_the_run_gets_nothing(
    store: TrackingConfig, tmp_path: Path, new_database: Path
) -> None:
    config = TrackingConfig(root=str(tmp_path), uri=store.uri)
    with Tracker.start(config, "moved", {}) as tracker:
        pass
    Outbox(tracker.run_dir).append_points([(0, {"a": 1.0})])
    other = TrackingConfig(root=str(tmp_path), uri=f"sqlite:///{tmp_path}/other.db")
    for _ in range(2):
        (synced,) = sync_runs(other, [tracker.run_dir])
        assert (synced.num_waiting, synced.num_delivered) == (1, 0)
        assert f"add tracking.uri={store.uri} to go on" in (synced.problem or "")
        shutil.copy(new_database, tmp_path / "other.db")
    (synced,) = sync_runs(config, [tracker.run_dir])
    assert (synced.num_waiting, synced.num_delivered) == (0, 1)


def test_the_end_of_a_run_whose_process_is_gone(store: TrackingConfig) -> None:
    with Tracker.start(store, "gone", {}) as tracker:
        tracker.log_metrics({"a": 0.0}, 0)
    (tracker.run_dir / OUTBOX).write_bytes(b"".join(list(lines(tracker.run_dir))[:-1]))
    client = MlflowClient(tracking_uri(store))
    client.update_run(tracker.run_id, status="RUNNING")
    Outbox(tracker.run_dir).append_points([(1, {"a": 1.0})])
    note_end(tracker.run_dir, store, "KILLED")
    note_end(tracker.run_dir, store, "FAILED")
    relay_rest(tracker.run_dir, store)
    assert client.get_run(tracker.run_id).info.status == "KILLED"
    assert len(history(store, tracker.run_dir)["a"]) == 2


def test_a_run_without_tracking_is_nothing_to_sync(tmp_path: Path) -> None:
    config = TrackingConfig(enabled=False, root=str(tmp_path))
    with Tracker.start(config, "local", {}) as tracker:
        tracker.log_metrics({"a": 1.0}, 0)
    assert sync_runs(config, [tracker.run_dir]) == []
    assert sorted(p.name for p in tracker.run_dir.iterdir()) == [OUTBOX, "run.json"]
    assert not (tracker.run_dir / OUTBOX_LOCK).exists()


@pytest.mark.parametrize(
    ("words", "code"), [([], 0), (["a", "b"], 2), (["seed=1"], 2), (["nothing"], 2)]
)
def test_sync_takes_one_run_and_settings_of_tracking(
    words: list[str],
    code: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("SPIRE_ROOT", str(tmp_path))
    assert main(["sync", "--json", *words]) == code
    said = capsys.readouterr()
    if code:
        assert said.err.startswith("spire sync: expected ")
    else:
        assert json.loads(said.out) == {"num_waiting": 0, "runs": []}
