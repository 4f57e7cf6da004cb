"""Who types decides where a run's record goes: it never follows a run's folder by itself."""

import contextlib
import io
import json
import os
import re
import shlex
import shutil
import signal
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from benchmarks.ray_desk import NOT_INHERITED, Command
from pipeline.cli.main import main
from pipeline.files.atomic import FORMAT
from pipeline.runs.record import read_record
from pipeline.tracking.outbox import Outbox, num_waiting, read_points

NUM_ROUNDS, LIMIT_S = 18, 120
SMALL = ["tracking.checkpoint_every=3", "eval.every=0", "eval.extractor=none"]
SMALL += ["eval.num_clients=2", "eval.num_loss_images=8", "adapt.epochs=1", "resources.pool=local"]
SMALL += ["tracking.log_model=false", f"federation.num_rounds={NUM_ROUNDS}"]


@dataclass
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str


def spire(*words: str) -> Ended:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(words)
    return Ended(code, out.getvalue(), err.getvalue())


@pytest.fixture(autouse=True)
def root(mnist_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory, where the user's own runs are; no database is there yet."""
    for name in NOT_INHERITED:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SPIRE_DATA", str(mnist_root))
    (tmp_path / "root").mkdir()
    monkeypatch.chdir(tmp_path / "root")
    return tmp_path / "root"


@pytest.fixture
def killed(server: Any, root: Path, mnist_root: Path) -> Iterator[Path]:
    """The folder of a run that began with `tracking.uri` of a server, and was killed outright."""
    command = Command(root, mnist_root, "run", "smoke", f"tracking.uri={server.address}", *SMALL)
    try:
        command.wait_until(lambda: command.num_rounds >= 7, LIMIT_S)
        os.killpg(command.process.pid, signal.SIGKILL)
        command.end(LIMIT_S)
        assert command.num_rounds < NUM_ROUNDS, "the run was too quick to be killed"
        yield next(root.glob("runs/*/run.json")).parent
    finally:
        command.kill()


def points_of(uri: str, run_id: str) -> dict[str, list[tuple[int, float]]]:
    """Return all that a store has of a run's metrics."""
    client = MlflowClient(uri)
    logged = {
        key: client.get_metric_history(run_id, key) for key in client.get_run(run_id).data.metrics
    }
    return {key: sorted((m.step, m.value) for m in metrics) for key, metrics in logged.items()}


def curve(run_dir: Path) -> dict[str, list[tuple[int, float]]]:
    """Return all metrics of a run's own outbox, each step once."""
    points: dict[str, list[tuple[int, float]]] = {}
    for step, metrics in read_points(run_dir):
        for key, value in metrics.items():
            points.setdefault(key, []).append((step, value))
    return points


@pytest.mark.slow
def test_a_killed_run_goes_on_in_its_store_if_it_is_typed_or_anew_in_the_present_one(
    killed: Path,
    server: Any,
    root: Path,
    tmp_path: Path,
    new_database: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    theirs, first_id = MlflowClient(server.address), read_record(killed)["run_id"]
    before = points_of(server.address, first_id), (killed / "outbox.jsonl").read_bytes()
    for verb in ("resume", "sync"):
        ended = spire(verb, killed.name)
        assert (ended.code, ended.out) == (2, "")
        [line] = [text for text in ended.err.splitlines() if text.startswith(f"spire {verb}: ")]
        word = f"tracking.uri={server.address}"
        assert f"add {word} to go on where it began, or --anew" in line
    assert spire("sync").code == 1
    after = points_of(server.address, first_id), (killed / "outbox.jsonl").read_bytes()
    assert after == before
    assert theirs.get_run(first_id).info.status == "RUNNING"
    assert not (root / "mlflow.db").exists()
    other = Path(shutil.copytree(root, tmp_path / "other"))

    typed = re.search(r"add (.+) to go on where", line)
    assert typed is not None
    assert spire("resume", killed.name, "--quiet", *shlex.split(typed[1])).code == 0
    there = points_of(server.address, first_id)
    assert there == curve(killed)
    assert len(curve(killed)["pretrain/loss"]) == NUM_ROUNDS
    assert theirs.get_run(first_id).info.status == "FINISHED"

    monkeypatch.chdir(other)
    shutil.copy(new_database, other)
    ended = spire("resume", killed.name, "--quiet", "--anew", "--json")
    assert ended.code == 0
    run_id, uri = json.loads(ended.out)["run_id"], f"sqlite:///{other}/mlflow.db"
    assert run_id != first_id
    assert points_of(uri, run_id) == curve(other / "runs" / killed.name)
    run, began = MlflowClient(uri).get_run(run_id), theirs.get_run(first_id)
    assert (run.info.status, run.info.run_name) == ("FINISHED", began.info.run_name)
    assert run.data.params == began.data.params
    assert run.data.tags["method"] == began.data.tags["method"]
    artifacts = {file.path for file in MlflowClient(uri).list_artifacts(run_id)}
    assert artifacts == {file.path for file in theirs.list_artifacts(first_id)}
    assert points_of(server.address, first_id) == there
    assert spire("sync", run_id, "--anew").out == "nothing waits\n"  # it is there by now
    assert spire("sample", killed.name, "--num", "1").code == 0


def planted(root: Path, address: str, file: Path) -> Path:
    """A run's folder that somebody sent: its record names a server, its outbox a file outside."""
    run_dir = root / "runs" / ("ab" * 16)
    run_dir.mkdir(parents=True)
    record = {"run_format": FORMAT, "run_id": run_dir.name, "run_name": "planted", "started_ms": 1}
    record |= {"kind": "run", "experiment": "spire", "tracked": True, "uri": address, "tags": {}}
    (run_dir / "run.json").write_text(json.dumps(record))
    (run_dir / "artifacts").mkdir()
    (run_dir / "artifacts" / "link").symlink_to(file)
    outbox = Outbox(run_dir)
    outbox.append_points([(0, {"a": 1.0})])
    for name in (str(file), os.path.relpath(file, run_dir / "artifacts"), "link"):
        outbox.append("file", file=name)
    return run_dir


def test_a_planted_folder_sends_nothing_to_its_store_and_no_file_from_outside(
    root: Path, tmp_path: Path, new_database: Path
) -> None:
    (tmp_path / "id_rsa").write_text("a private key")
    shutil.copy(new_database, root)
    with socket.create_server(("127.0.0.1", 0)) as theirs:
        address = f"http://127.0.0.1:{theirs.getsockname()[1]}"
        run_dir = planted(root, address, tmp_path / "id_rsa")
        ended = spire("sync")
        assert ended.code == 1
        assert f"tracking.uri={address}" in ended.out
        assert spire("sync", run_dir.name).code == 2
        assert spire("sync", run_dir.name, "--anew").code == 0
        theirs.settimeout(0)
        with pytest.raises(BlockingIOError):  # nobody has called
            theirs.accept()
    refused = (run_dir / "outbox.refused.jsonl").read_text().splitlines()
    assert ["nothing was read" in line for line in refused] == [True] * 3
    assert num_waiting(run_dir) == 0
    kept = [path for path in root.rglob("*") if path.is_file() and not path.is_symlink()]
    assert not [path for path in kept if b"a private key" in path.read_bytes()]
