"""A run's outbox and its relay, mostly into a real sqlite store: nothing lost, nothing twice."""

import contextlib
import itertools
import json
import logging
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest
from mlflow import MlflowClient
from warm_process import WarmPopen

from pipeline.cli.main import main
from pipeline.cli.sync import sync_runs
from pipeline.config.tracking import TrackingConfig, tracking_uri
from pipeline.runs.layout import DONE, OUTBOX, OUTBOX_LOCK, REFUSED
from pipeline.tracking import relay, relay_thread
from pipeline.tracking import tracker as tracker_module
from pipeline.tracking.ends import end_run
from pipeline.tracking.mlflow_sink import MlflowSink
from pipeline.tracking.outbox import (
    Entry,
    Outbox,
    num_refused,
    num_waiting,
    parse_entry,
    read_done,
    read_entries,
    read_points,
)
from pipeline.tracking.relay import Refusal, relay_all, sole_relay
from pipeline.tracking.relay_thread import RelayThread
from pipeline.tracking.tracker import Tracker, check_store
from spire_core.errors import RunError, StoreError


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, new_database: Path) -> TrackingConfig:
    root = tmp_path_factory.mktemp("outbox")
    shutil.copy(new_database, root)
    return TrackingConfig(root=str(root), uri=f"sqlite:///{root}/mlflow.db")


class Fake:
    """Keeps the batches that it is sent; fails with what it is told to fail with."""

    address = "fake"

    def __init__(self) -> None:
        self.batches: list[list[Entry]] = []
        self.error: Exception | None = None

    def send(self, entries: Sequence[Entry]) -> None:
        if self.error is not None:
            raise self.error
        if any("bad" in entry.get("metrics", ()) for entry in entries):
            raise Refusal("bad is no name")
        self.batches.append(list(entries))

    def is_retryable(self, error: Exception) -> bool:
        return isinstance(error, ConnectionError)

    @property
    def steps(self) -> list[int]:
        return [entry["step"] for batch in self.batches for entry in batch if "step" in entry]


def history(config: TrackingConfig, tracker_or_dir: Tracker | Path) -> dict[str, list[tuple]]:
    """All that the store has of each metric: (timestamp, step, value), in its own order."""
    run_dir = tracker_or_dir if isinstance(tracker_or_dir, Path) else tracker_or_dir.run_dir
    client, run_id = MlflowClient(tracking_uri(config)), run_dir.name
    keys = client.get_run(run_id).data.metrics
    found = {key: client.get_metric_history(run_id, key) for key in keys}
    return {k: [(m.timestamp, m.step, m.value) for m in metrics] for k, metrics in found.items()}


def told(run_dir: Path) -> dict[str, list[tuple]]:
    """The same of what the run told."""
    found: dict[str, list[tuple]] = {}
    for entry in read_entries(run_dir):
        for key, value in entry.get("metrics", {}).items():
            found.setdefault(key, []).append((entry["time_ms"], entry["step"], value))
    return found


# ------------------------------------------------------------------------------------- the outbox


def test_an_entry_is_in_the_file_when_the_call_returns(tmp_path: Path) -> None:
    outbox, before = Outbox(tmp_path), time.time_ns() // 1_000_000
    outbox.append("tags", tags={"a": "1"})
    outbox.append_points([(3, {"kid": 0.5}), (4, {"kid": float("nan")})])
    first, second, third = read_entries(tmp_path)
    assert first == {"kind": "tags", "time_ms": first["time_ms"], "tags": {"a": "1"}}
    assert second["metrics"] == {"kid": 0.5}
    assert third["metrics"]["kid"] != third["metrics"]["kid"]
    times = [before, first["time_ms"], second["time_ms"], third["time_ms"]]
    assert times == sorted(times)
    assert num_waiting(tmp_path) == 3


def test_a_number_is_told_once_also_by_a_process_that_goes_on(tmp_path: Path) -> None:
    first = Outbox(tmp_path)
    first.append_points([(1, {"a": 1.0, "b": 1.0}), (2, {"a": 2.0})])
    first.append_points([(2, {"a": 2.5})])
    second = Outbox(tmp_path)
    second.append_points([(2, {"a": 2.7, "b": 2.0}), (3, {"a": 3.0})])
    assert read_points(tmp_path) == [
        (1, {"a": 1.0, "b": 1.0}),
        (2, {"a": 2.0, "b": 2.0}),
        (3, {"a": 3.0}),
    ]
    assert num_waiting(tmp_path) == 4


def test_a_line_that_a_crash_has_cut_off_is_dropped(tmp_path: Path) -> None:
    Outbox(tmp_path).append_points([(1, {"a": 1.0}), (2, {"a": 2.0})])
    with (tmp_path / OUTBOX).open("a") as file:
        file.write('{"kind": "metrics", "time_ms": 5, "st')
    assert read_points(tmp_path) == [(1, {"a": 1.0}), (2, {"a": 2.0})]
    Outbox(tmp_path).append_points([(3, {"a": 3.0})])
    assert read_points(tmp_path) == [(1, {"a": 1.0}), (2, {"a": 2.0}), (3, {"a": 3.0})]
    fake = Fake()
    assert relay_all(tmp_path, fake) == (3, None)
    assert fake.steps == [1, 2, 3]
    assert (num_waiting(tmp_path), read_done(tmp_path)) == (0, 4)


@pytest.mark.parametrize("moment", ["before", "halfway", "after"])
def test_a_number_is_told_once_though_an_interrupt_ends_the_call(
    moment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told, opened = Outbox(tmp_path), Path.open
    told.append_points([(1, {"a": 1.0})])

    @contextlib.contextmanager
    def interrupted(path: Path, mode: str, buffering: int) -> Iterator[Any]:
        if moment == "before":
            raise KeyboardInterrupt
        with opened(path, mode, buffering) as file:
            yield HalfWriter(file) if moment == "halfway" else file
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", interrupted)
        with pytest.raises(KeyboardInterrupt):
            told.append_points([(2, {"a": 2.0})])
    told.append_points([(2, {"a": 2.0})])
    told.append_points([(3, {"a": 3.0})])
    entries = [parse_entry(line) for line in (tmp_path / OUTBOX).read_bytes().splitlines()]
    assert [(e["step"], e["metrics"]) for e in entries if e is not None] == [
        (1, {"a": 1.0}),
        (2, {"a": 2.0}),
        (3, {"a": 3.0}),
    ]
    assert None not in entries


class HalfWriter:
    """A file that an interrupt ends in the middle of a line."""

    def __init__(self, file: IO[bytes]) -> None:
        self.tell, self.truncate, self._write = file.tell, file.truncate, file.write

    def write(self, content: bytes) -> int:
        self._write(content[: len(content) // 2])
        raise KeyboardInterrupt


# --------------------------------------------------------------------------------------- the relay


def test_metrics_travel_together_in_order_and_nothing_overtakes_them(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path)
    outbox.append("tags", tags={})
    outbox.append_points([(step, {f"m{i}": 0.0 for i in range(7)}) for step in range(300)])
    outbox.append("status", status="FINISHED")
    fake = Fake()
    assert relay_all(tmp_path, fake) == (302, None)
    assert [len(batch) for batch in fake.batches] == [1, 142, 142, 16, 1]
    assert [e for batch in fake.batches for e in batch] == list(read_entries(tmp_path))
    assert relay_all(tmp_path, fake) == (0, None)


def test_entries_wait_for_a_store_that_is_away_and_the_log_says_so_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(relay_thread, "LINGER_S", 0.01)
    monkeypatch.setattr(relay_thread, "RETRY_DELAYS_S", (0.01, 0.02))
    caplog.set_level(logging.INFO, "pipeline")
    outbox, fake = Outbox(tmp_path), Fake()
    beside = RelayThread(tmp_path, fake, "r")
    for step in range(60):
        outbox.append_points([(step, {"a": 0.0})])
        beside.notify()
        if step == 20:
            assert beside.flush(10) == 0
            fake.error = ConnectionError("http://me:secret@host is down")
        if step == 40:
            assert beside.flush(0.2) == 20
    fake.error = None
    assert beside.flush(10) == 0
    assert fake.steps == list(range(60))
    assert [(r.levelname, r.getMessage()) for r in caplog.records] == [
        (
            "WARNING",
            "run r: its store does not answer (http://me:***@host is down): all is kept in "
            f"{tmp_path} until it does",
        ),
        ("INFO", "run r: its store answers again"),
    ]
    assert beside.close(10) == 0
    assert not beside._thread.is_alive()


def test_another_store_begins_at_the_first_entry(tmp_path: Path) -> None:
    outbox, fake, other = Outbox(tmp_path), Fake(), Fake()
    outbox.append_points([(step, {"a": 0.0}) for step in range(3)])
    assert relay_all(tmp_path, fake) == (3, None)
    outbox.append_points([(3, {"a": 0.0})])
    other.address = "other"
    assert num_waiting(tmp_path) == 1
    assert relay_all(tmp_path, other) == (4, None)
    assert (fake.steps, other.steps) == ([0, 1, 2], [0, 1, 2, 3])


def test_what_will_never_be_taken_is_put_aside_and_the_rest_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    outbox, fake = Outbox(tmp_path), Fake()
    outbox.append_points([(step, {"bad" if step in (3, 7) else "a": 0.0}) for step in range(10)])
    assert relay_all(tmp_path, fake) == (8, None)
    assert fake.steps == [0, 1, 2, 4, 5, 6, 8, 9]
    lines = (tmp_path / REFUSED).read_text().splitlines()
    assert [(json.loads(x)["step"], json.loads(x)["reason"]) for x in lines] == [
        (3, "bad is no name"),
        (7, "bad is no name"),
    ]
    assert (num_waiting(tmp_path), num_refused(tmp_path)) == (0, 2)
    assert [r.getMessage() for r in caplog.records] == [
        f"the store refuses metrics bad of step {step} (bad is no name): it is kept in "
        f"{tmp_path / REFUSED}"
        for step in (3, 7)
    ]


def test_a_count_beyond_the_file_does_not_hide_what_comes(tmp_path: Path) -> None:
    """Lines that were delivered are lost with the power; the rounds are computed again."""
    outbox, fake = Outbox(tmp_path), Fake()
    outbox.append_points([(step, {"a": 0.0}) for step in range(5)])
    (tmp_path / DONE).write_text("9\nfake\n")
    Outbox(tmp_path).append_points([(5, {"a": 0.0})])
    assert relay_all(tmp_path, fake) == (1, None)
    assert fake.steps == [5]


# --------------------------------------------------------------------------------- the real store


def test_the_store_has_what_was_told_when_it_was_told(store: TrackingConfig) -> None:
    with Tracker.start(store, "read back", {}) as tracker:
        for step in range(250):
            tracker.log_metrics({"a": step / 7, "b": -step, "c": 1e300}, step)
            time.sleep(0.001)
    assert history(store, tracker) == told(tracker.run_dir)
    assert [step for _, step, _ in history(store, tracker)["a"]] == list(range(250))
    assert (num_waiting(tracker.run_dir), num_refused(tracker.run_dir)) == (0, 0)


def test_a_wrong_name_is_refused_and_the_rest_arrives(
    store: TrackingConfig, caplog: pytest.LogCaptureFixture
) -> None:
    with Tracker.start(store, "wrong name", {}) as tracker:
        for step in range(5):
            tracker.log_metrics({"what?!" if step == 2 else "a": 1.0}, step)
    assert [step for _, step, _ in history(store, tracker)["a"]] == [0, 1, 3, 4]
    (line,) = (tracker.run_dir / REFUSED).read_text().splitlines()
    assert (json.loads(line)["step"], json.loads(line)["metrics"]) == (2, {"what?!": 1.0})
    assert ["metrics what?! of step 2" in r.getMessage() for r in caplog.records] == [True]


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
    client = MlflowClient(tracking_uri(store))
    relay_all(tracker.run_dir, MlflowSink(client, tracker.run_id, tracker.run_dir))
    lines = (tracker.run_dir / REFUSED).read_text().splitlines()
    reasons = [json.loads(line)["reason"] for line in lines]
    assert len(reasons) == 3 * len(files) + 3
    assert {reason.partition(f" {tracker.run_dir}")[0] for reason in reasons} == {
        "expected a path inside"
    }
    found = contents(store, tracker.run_dir)
    assert (found["files"], found["models"]) == (["its"], [])


def test_a_run_that_is_deleted_meanwhile_refuses_all(store: TrackingConfig) -> None:
    with Tracker.start(store, "deleted", {}) as tracker:
        tracker.log_metrics({"a": 1.0}, 0)
        assert tracker.flush()
        MlflowClient(tracking_uri(store)).delete_run(tracker.run_id)
        tracker.log_metrics({"a": 2.0}, 1)
        tracker.log_metrics({"a": 3.0}, 2)
    assert [
        json.loads(x)["kind"] for x in (tracker.run_dir / REFUSED).read_text().splitlines()
    ] == [
        "metrics",
        "metrics",
        "status",
    ]
    assert num_waiting(tracker.run_dir) == 0
    with pytest.raises(RunError, match=r"expected run .* got deleted"):
        Tracker.resume(store, tracker.run_dir)


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


def contents(config: TrackingConfig, run_dir: Path) -> dict[str, object]:
    """All that the store has of a run."""
    client, run_id = MlflowClient(tracking_uri(config)), run_dir.name
    run = client.get_run(run_id)
    folders = ["", "images", "config", "tables"]
    models = client.search_logged_models([run.info.experiment_id])
    tags = {k: v for k, v in run.data.tags.items() if not k.startswith(("mlflow.user", "mlflow.s"))}
    return {
        "history": history(config, run_dir),
        "files": sorted(a.path for f in folders for a in client.list_artifacts(run_id, f)),
        "params": run.data.params,
        "tags": tags,
        "end": (run.info.status, run.info.end_time),
        "inputs": [d.dataset.digest for d in run.inputs.dataset_inputs],
        "outputs": [o.model_id for o in run.outputs.model_outputs],
        "models": [(m.model_id, str(m.status)) for m in models if m.source_run_id == run_id],
    }


def test_entries_that_arrived_uncounted_are_recognised(store: TrackingConfig) -> None:
    with Tracker.start(store, "uncounted", {}) as tracker:
        everything(tracker)
    before, total = contents(store, tracker.run_dir), len(list(read_entries(tracker.run_dir)))
    assert len(before["files"]) == 7  # type: ignore[arg-type]  # with their folders
    for count in range(total):
        (tracker.run_dir / DONE).write_text(f"{count}\n{tracking_uri(store)}\n")
        (synced,) = sync_runs(store, [tracker.run_dir])
        assert (synced.num_delivered, synced.num_waiting, synced.num_refused) == (
            total - count,
            0,
            0,
        )
        assert contents(store, tracker.run_dir) == before


def test_rounds_lost_with_the_power_and_computed_again_are_there_once(
    store: TrackingConfig,
) -> None:
    image = np.zeros((4, 5, 3), np.uint8)
    with Tracker.start(store, "power", {}) as tracker:
        for step in range(6):
            tracker.log_metrics({"a": float(step)}, step)
        tracker.log_image("samples/all", image, 5)
        tracker.flush()
    before = contents(store, tracker.run_dir)
    lines = (tracker.run_dir / OUTBOX).read_text().splitlines(keepends=True)
    (tracker.run_dir / OUTBOX).write_text("".join(lines[:3]))
    time.sleep(0.005)
    with Tracker.resume(store, tracker.run_dir) as resumed:
        for step in range(3, 7):
            resumed.log_metrics({"a": step + 0.5}, step)
        resumed.log_image("samples/all", image, 5)
    after = contents(store, tracker.run_dir)
    assert [(s, v) for _, s, v in history(store, tracker)["a"]] == [
        *((s, float(s)) for s in range(6)),
        (6, 6.5),
    ]
    assert after["files"] == before["files"]


def test_a_run_that_goes_on_has_one_model(store: TrackingConfig) -> None:
    tracker = Tracker.start(store, "one model", {})
    log_model(tracker)
    tracker.finish("KILLED")
    with Tracker.resume(store, tracker.run_dir) as resumed:
        log_model(resumed)
    assert len(contents(store, tracker.run_dir)["models"]) == 1  # type: ignore[arg-type]


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


@pytest.mark.parametrize("seed", [0, 1])
def test_a_process_killed_while_it_logs_loses_and_doubles_nothing(
    store: TrackingConfig, seed: int
) -> None:
    command = [sys.executable, "-c", LOG, str(store.root), str(store.uri)]
    with WarmPopen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        run_dir = Path(process.stdout.readline().strip())
        while read_done(run_dir) < 60:
            time.sleep(0.01)
        time.sleep(random.Random(seed).random() * 0.5)
        process.send_signal(signal.SIGKILL)
    (synced,) = sync_runs(store, [run_dir])
    assert (synced.num_waiting, synced.num_refused, synced.problem) == (0, 0, None)
    found = history(store, run_dir)
    assert found == told(run_dir)
    with Tracker.resume(store, run_dir) as resumed:  # from a checkpoint of 20 rounds before
        last = read_points(run_dir)[-1][0]
        for step in range(last - 20, last + 5):
            resumed.log_metrics({"a": step * 0.5, "b": 1.0}, step)
    found = history(store, run_dir)
    assert found == told(run_dir)
    assert [(step, value) for _, step, value in found["a"]] == [
        (step, step * 0.5) for step in range(last + 5)
    ]


def test_two_syncs_at_once_deliver_each_entry_once(
    store: TrackingConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "LOCK_WAIT_S", 60.0)  # a batch takes seconds on a busy machine
    tracker = Tracker.start(store, "two syncs", {})
    tracker.finish("KILLED")
    outbox = Outbox(tracker.run_dir)
    outbox.append_points([(step, {f"m{i}": 1.0 for i in range(400)}) for step in range(40)])
    with ThreadPoolExecutor(2) as pool:
        syncs = [pool.submit(sync_runs, store, [tracker.run_dir]) for _ in range(2)]
        synced = [sync.result()[0] for sync in syncs]
    assert [(s.num_waiting, s.num_refused, s.problem) for s in synced] == [(0, 0, None)] * 2
    assert sorted(s.num_delivered for s in synced) == [0, 40]
    assert history(store, tracker) == told(tracker.run_dir)


def test_a_sync_beside_a_run_leaves_the_entries_to_it(
    store: TrackingConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay_thread, "LINGER_S", 60.0)
    monkeypatch.setattr(relay, "LOCK_WAIT_S", 0.3)
    with Tracker.start(store, "live", {}) as tracker:
        tracker.log_metrics({"a": 0.0}, 0)
        assert tracker.flush()
        time.sleep(0.1)
        tracker.log_metrics({"a": 1.0}, 1)
        tracker.log_metrics({"a": 2.0}, 2)
        (synced,) = sync_runs(store, [tracker.run_dir])
    assert synced.num_delivered == 0
    assert synced.num_waiting in (1, 2)
    assert synced.problem == "another process is delivering them"
    assert "wait (another process is delivering them)" in synced.text
    assert history(store, tracker) == told(tracker.run_dir)
    assert num_waiting(tracker.run_dir) == 0


def test_a_sync_beside_a_run_that_goes_on_ends_with_what_waited_as_it_began(
    store: TrackingConfig,
) -> None:
    """The run writes faster than the sync looks, and would never be found without entries."""
    stop = threading.Event()

    def go_on(tracker: Tracker) -> None:
        for step in itertools.count():
            tracker.log_metrics({"a": float(step)}, step)
            if stop.wait(0.02):
                return

    with Tracker.start(store, "goes on", {}) as tracker, ThreadPoolExecutor(1) as pool:
        writing = pool.submit(go_on, tracker)
        time.sleep(0.5)
        began = time.monotonic()
        try:
            (synced,) = sync_runs(store, [tracker.run_dir])
        finally:
            stop.set()
        assert time.monotonic() - began < 60
        writing.result()
    assert synced.num_delivered == 0
    assert synced.problem in ("another process is delivering them", None)


def test_a_run_beside_a_sync_waits_for_its_end(store: TrackingConfig) -> None:
    with Tracker.start(store, "begins", {}) as tracker:
        tracker.log_metrics({"a": 0.0}, 0)
    with sole_relay(tracker.run_dir) as is_ours:
        assert is_ours
        resumed = Tracker.resume(store, tracker.run_dir)
        resumed.log_metrics({"a": 1.0}, 1)
        assert not resumed.flush(0.3)
    resumed.finish()
    assert history(store, tracker) == told(tracker.run_dir)


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
        with pytest.raises(StoreError, match="wait until that ends") as refused:
            check_store(config)
        assert "tracking.root" not in str(refused.value)
        assert f"101 entries of run {tracker.run_id} wait for its store: `spire sync" in caplog.text
        other.execute("COMMIT")
    other.close()
    (synced,) = sync_runs(config, [tracker.run_dir])
    assert (synced.num_waiting, synced.num_refused) == (0, 0)
    assert history(config, tracker) == told(tracker.run_dir)
    assert MlflowClient(config.uri).get_run(tracker.run_id).info.status == "FINISHED"


def test_a_store_that_is_gone_or_does_not_know_the_run_keeps_its_entries_waiting(
    store: TrackingConfig, tmp_path: Path, new_database: Path
) -> None:
    config = TrackingConfig(root=str(tmp_path), uri=store.uri)
    with Tracker.start(config, "moved", {}) as tracker:
        pass
    Outbox(tracker.run_dir).append_points([(0, {"a": 1.0})])
    gone = TrackingConfig(root=str(tmp_path), uri=f"sqlite:///{tmp_path}/gone.db")
    (synced,) = sync_runs(gone, [tracker.run_dir])
    assert (synced.num_waiting, synced.num_delivered) == (1, 0)
    assert f"add tracking.uri={store.uri} to go on" in (synced.problem or "")
    assert not (tmp_path / "gone.db").exists()
    shutil.copy(new_database, tmp_path / "gone.db")
    Tracker.start(gone, "another", {}).finish()
    (synced,) = sync_runs(gone, [tracker.run_dir])
    assert (synced.num_waiting, synced.num_refused) == (1, 0)
    assert f"add tracking.uri={store.uri} to go on" in (synced.problem or "")
    (synced,) = sync_runs(config, [tracker.run_dir])
    assert (synced.num_waiting, synced.num_delivered) == (0, 1)


def test_the_end_of_a_run_whose_process_is_gone(store: TrackingConfig) -> None:
    with Tracker.start(store, "gone", {}) as tracker:
        tracker.log_metrics({"a": 0.0}, 0)
        tracker.flush()
    lines = (tracker.run_dir / OUTBOX).read_text().splitlines(keepends=True)
    (tracker.run_dir / OUTBOX).write_text("".join(lines[:-1]))
    client = MlflowClient(tracking_uri(store))
    client.update_run(tracker.run_id, status="RUNNING")
    Outbox(tracker.run_dir).append_points([(1, {"a": 1.0})])
    end_run(tracker.run_dir, store, "KILLED")
    end_run(tracker.run_dir, store, "FAILED")
    assert client.get_run(tracker.run_id).info.status == "KILLED"
    assert len(history(store, tracker)["a"]) == 2


def test_a_run_without_tracking_is_nothing_to_sync(tmp_path: Path) -> None:
    config = TrackingConfig(enabled=False, root=str(tmp_path))
    with Tracker.start(config, "local", {}) as tracker:
        tracker.log_metrics({"a": 1.0}, 0)
    assert sync_runs(config, [tracker.run_dir]) == []
    assert sorted(p.name for p in tracker.run_dir.iterdir()) == [OUTBOX, "run.json"]
    assert not (tracker.run_dir / OUTBOX_LOCK).exists()


def test_a_run_that_is_deleted_while_others_are_synced_is_passed_over(tmp_path: Path) -> None:
    config = TrackingConfig(root=str(tmp_path), uri=f"sqlite:///{tmp_path}/mlflow.db")
    runs = []
    for name in ("gone", "there"):
        with Tracker.start(config, name, {}) as tracker:
            runs.append(tracker.run_dir)
    shutil.rmtree(runs[0])
    assert [synced.run_name for synced in sync_runs(config, runs)] == ["there"]
    with pytest.raises(RunError):
        sync_runs(config, runs[:1], is_chosen=True)
    (runs[1] / "run.json").write_text("{")
    with pytest.raises(RunError, match=r"tracking\.json"):
        sync_runs(config, runs)


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


def test_threads_that_log_at_once_keep_their_lines_whole(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path)

    def log(name: str) -> None:
        for step in range(200):
            outbox.append_points([(step, {name: 1.0})])

    threads = [threading.Thread(target=log, args=(name,)) for name in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(list(read_entries(tmp_path))) == 600
