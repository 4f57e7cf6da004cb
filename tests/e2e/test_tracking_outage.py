"""The tracking store stops, dies, fails requests or is locked during `spire run`, which goes on.

What it has missed it gets when it is back: by itself while the run goes on, else by `spire sync`.
The wait for it at a run's end, half a minute in use, is shorter or longer here.
"""

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest
from failing_proxy import Proxy
from mlflow import MlflowClient

from pipeline.runs.layout import RECORD, REFUSED
from pipeline.runs.record import read_record
from pipeline.tracking.outbox import entries, num_waiting, read_cursor, read_points
from sweeps.cli import main

pytestmark = pytest.mark.slow
NUM_ROUNDS = 60
COMMAND = """
import sys
from pipeline.cli.main import main
from pipeline.tracking import tracker
tracker.FINISH_WAIT_S = float(sys.argv[1])
sys.exit(main(sys.argv[2:]))
"""
IN_VAIN_S = 2.0  # a wait for a server that stays away
SMALL = ["adapt.epochs=1", "eval.num_images=8", "eval.num_loss_images=8", "eval.num_clients=2"]


class Server(Protocol):
    address: str
    process: Any

    def start(self) -> None: ...

    def send(self, number: signal.Signals) -> None: ...

    def end(self, number: signal.Signals) -> None: ...


class Spire:
    """`spire run smoke` as a process, whose stderr goes into a file."""

    def __init__(self, root: Path, address: str, mnist_root: Path, wait_s: float) -> None:
        self.root, self.err = root, root / "stderr"
        self.env = os.environ | {"MLFLOW_TRACKING_URI": address}
        self.settings = [f"tracking.root={root}"]
        root.mkdir(exist_ok=True)
        words = [*self.settings, f"data.root={mnist_root}", f"federation.num_rounds={NUM_ROUNDS}"]
        words += ["federation.cohort_size=2", "eval.every=20", "resources.pool=local", *SMALL]
        with self.err.open("w") as err:
            self.process = subprocess.Popen(
                [sys.executable, "-c", COMMAND, str(wait_s), "run", "smoke", "--json", *words],
                env=self.env,
                stdout=subprocess.PIPE,
                stderr=err,
                text=True,
            )

    @property
    def run_dir(self) -> Path:
        return next(self.root.glob(f"runs/*/{RECORD}")).parent

    @property
    def num_rounds(self) -> int:
        """Rounds that have been recorded so far."""
        if not list(self.root.glob(f"runs/*/{RECORD}")):
            return 0
        return sum("pretrain/loss" in metrics for _, metrics in read_points(self.run_dir))

    def wait_until(self, is_true: Callable[[], bool]) -> None:
        for _ in range(12000):
            if is_true():
                return
            assert self.process.poll() in (None, 0), self.err.read_text()
            time.sleep(0.05)
        pytest.fail(self.err.read_text())

    def end(self) -> dict[str, Any]:
        out, _ = self.process.communicate(timeout=600)
        assert self.process.returncode == 0, self.err.read_text()
        return json.loads(out)

    def sync(self) -> tuple[int, dict[str, Any]]:
        """Type `spire sync` in this process; return its exit code and what it prints."""
        out = io.StringIO()
        with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out):
            patch.setenv("MLFLOW_TRACKING_URI", self.env["MLFLOW_TRACKING_URI"])
            code = main(["sync", "--json", *self.settings])
        return code, json.loads(out.getvalue())


@pytest.fixture
def spire(tmp_path: Path, mnist_root: Path) -> Iterator[Callable[[str, float], Spire]]:
    """Start a run with a store's address, which it waits for at its end for some seconds."""
    started: list[Spire] = []

    def start(address: str, wait_s: float) -> Spire:
        started.append(Spire(tmp_path / "root", address, mnist_root, wait_s))
        return started[-1]

    yield start
    for one in started:
        one.process.kill()
        one.process.wait()


def assert_all_is_there_once(address: str, run_dir: Path) -> None:
    client, logged = MlflowClient(address), [entry for entry, _ in entries(run_dir)]
    run_id = read_record(run_dir)["run_id"]
    run = client.get_run(run_id)
    told: dict[str, list[tuple[int, int, float]]] = {}
    for entry in logged:
        for key, value in entry.get("metrics", {}).items():
            told.setdefault(key, []).append((entry["time_ms"], entry["step"], value))
    assert run.data.metrics.keys() == told.keys()
    for key, points in told.items():
        history = client.get_metric_history(run_id, key)
        assert [(m.timestamp, m.step, m.value) for m in history] == points, key
    losses = [step for _, step, _ in told["pretrain/loss"]]
    assert losses == list(range(1, NUM_ROUNDS + 1))
    files = [entry["file"] for entry in logged if "file" in entry]
    folders = {str(Path(file).parent).removeprefix(".") for file in files}  # "" is the root
    listed = [a for folder in folders for a in client.list_artifacts(run_id, folder)]
    there = {a.path for a in listed if not a.is_dir}
    assert {path for path in there if not path.endswith(".webp")} == set(files)
    assert len(run.outputs.model_outputs) == len(run.inputs.dataset_inputs) == 1
    models = client.search_logged_models([run.info.experiment_id])
    assert [str(m.status) for m in models if m.source_run_id == run_id] == ["READY"]
    assert run.info.status == "FINISHED"
    assert num_waiting(run_dir) == 0
    assert not (run_dir / REFUSED).exists()


def test_a_server_that_hangs_and_one_that_is_started_again_get_everything_by_themselves(
    server: Server, spire: Callable[[str, float], Spire]
) -> None:
    run = spire(server.address, 8.0)
    run.wait_until(lambda: run.num_rounds >= 5)
    server.send(signal.SIGSTOP)
    before = run.num_rounds
    run.wait_until(lambda: run.num_rounds >= before + 25)
    assert run.process.poll() is None
    assert num_waiting(run.run_dir) >= 20
    offset = read_cursor(run.run_dir)[0]
    server.send(signal.SIGCONT)
    run.wait_until(lambda: read_cursor(run.run_dir)[0] > offset)
    server.end(signal.SIGKILL)
    run.wait_until(lambda: num_waiting(run.run_dir) >= 5 or run.process.poll() == 0)
    server.start()
    assert run.end()["name"] == run.run_dir.name
    assert run.sync()[0] == 0  # on a slow machine, something may be left
    assert_all_is_there_once(server.address, run.run_dir)


def test_a_server_that_is_away_for_a_whole_run_gets_it_by_sync(
    server: Server, spire: Callable[[str, float], Spire]
) -> None:
    run = spire(server.address, IN_VAIN_S)
    run.wait_until(lambda: bool(list(run.root.glob(f"runs/*/{RECORD}"))))
    server.end(signal.SIGKILL)
    assert run.end()["metrics"]
    assert run.num_rounds == NUM_ROUNDS
    said = run.err.read_text()
    assert said.count("its store takes no entries") == 1
    waiting = num_waiting(run.run_dir)
    assert waiting >= NUM_ROUNDS
    assert f"{waiting} entries of run {run.run_dir.name} wait for its store" in said
    code, told = run.sync()
    assert (code, told["num_waiting"]) == (1, waiting)
    assert "expected an MLflow store at" in told["runs"][0]["problem"]

    server.start()
    code, told = run.sync()
    assert (code, told["num_waiting"]) == (0, 0)
    assert told["runs"][0]["num_delivered"] == waiting
    assert_all_is_there_once(server.address, run.run_dir)
    assert run.sync()[1]["runs"][0]["num_delivered"] == 0


def test_a_server_that_fails_30_percent_of_all_requests_gets_everything_once(
    server: Server, spire: Callable[[str, float], Spire]
) -> None:
    """Before it has done what they ask, or after; also those with which the run begins."""
    proxy = Proxy(int(server.address.rpartition(":")[2]), 0.3, 0)
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    try:
        run = spire(proxy.address, 120.0)
        assert run.end()["metrics"]
        assert run.sync()[0] == 0
    finally:
        proxy.shutdown()
        proxy.server_close()
    assert len(proxy.counts) == 6  # answers, and faults of all five kinds
    assert_all_is_there_once(server.address, run.run_dir)
    client = MlflowClient(server.address)
    place = read_record(run.run_dir)["experiment_id"]
    running = f"attributes.run_name = '{run.run_dir.name}' and attributes.status = 'RUNNING'"
    assert not client.search_runs([place], running)  # none was created twice
