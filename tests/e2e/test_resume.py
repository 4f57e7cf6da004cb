"""Runs that end too early, by SIGTERM and by SIGKILL, and go on to the same result."""

import re
import shutil
import signal
from pathlib import Path

import pytest
from mlflow import MlflowClient
from typed_here import answer

from benchmarks.ray_desk import Command

pytestmark = pytest.mark.slow
NUM_ROUNDS = 18
SETTINGS = ["tracking.checkpoint_every=3", "eval.every=0"]
SETTINGS += [f"federation.num_rounds={NUM_ROUNDS}", "eval.extractor=none", "eval.num_clients=2"]
SETTINGS += ["eval.num_loss_images=8", "adapt.epochs=1", "tracking.log_model=false"]
LIMIT_S, LEFT_S = 120, 15  # at most, on a busy machine


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory, mnist_root: Path) -> str:
    folder = tmp_path_factory.mktemp("whole")
    words = ("run", "smoke", *SETTINGS, "resources.pool=local", "tracking.enabled=false")
    return answer(folder, mnist_root, *words)["state_fingerprint"]


def checkpoints(folder: Path) -> list[int]:
    found = folder.glob("runs/*/checkpoints/*/manifest.json")
    return sorted(int(p.parent.name) for p in found if p.parent.name.isdecimal())


def end_early(kind: signal.Signals, command: Command) -> tuple[int, str]:
    """End a command after its next checkpoint; return its exit code and its sentence."""
    before = checkpoints(command.folder)
    command.wait_until(lambda: checkpoints(command.folder)[-1:] != before[-1:], LIMIT_S)
    command.process.send_signal(kind)
    code, told = command.end(LIMIT_S)
    assert checkpoints(command.folder)[-1] < NUM_ROUNDS, "the run was too quick to be ended"
    return code, told


def test_a_run_that_was_ended_early_and_then_killed_goes_on(
    expected: str, mnist_root: Path, tmp_path: Path, new_database: Path
) -> None:
    shutil.copy(new_database, tmp_path)
    command = Command(tmp_path, mnist_root, "run", "smoke", *SETTINGS, "resources.num_actors=1")
    try:
        code, told = end_early(signal.SIGTERM, command)
        assert code == 130
        assert re.fullmatch(r"spire run: interrupted: spire resume \w+ goes on from .*", told), told
        assert "Traceback" not in command.err.read_text()
        assert checkpoints(tmp_path)[-1] == command.num_rounds
        assert command.left_behind(LEFT_S) == []
    finally:
        command.kill()
    command = Command(tmp_path, mnist_root, "resume", "last")
    try:
        assert end_early(signal.SIGKILL, command)[0] == -signal.SIGKILL
    finally:
        command.kill()
    told = answer(tmp_path, mnist_root, "resume", "last", "resources.pool=local")  # any will do
    assert told["state_fingerprint"] == expected
    assert answer(tmp_path, mnist_root, "resume", "last")["run_id"] == told["run_id"]  # it is over
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    assert client.get_run(told["run_id"]).info.status == "FINISHED"
    steps = [m.step for m in client.get_metric_history(told["run_id"], "pretrain/loss")]
    assert sorted(steps) == list(range(1, NUM_ROUNDS + 1))
