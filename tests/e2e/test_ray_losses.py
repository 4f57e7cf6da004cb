"""Signals to a run and losses of its Ray: it ends soon, not with 0, and goes on to the same result.

The driver's actor and those of the clients are lost in tests/cluster/test_pools.py.
"""

import os
import re
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient
from typed_here import answer

from benchmarks.ray_desk import Command

pytestmark = pytest.mark.slow
NUM_ROUNDS = 200
SETTINGS = [
    "tracking.checkpoint_every=1",
    "tracking.enabled=false",
    f"federation.num_rounds={NUM_ROUNDS}",
]
SETTINGS += ["federation.tau=1", "eval.every=0", "eval.extractor=none", "eval.num_loss_images=8"]
SETTINGS += ["eval.num_clients=2", "adapt.epochs=1"]
START_S, LEFT_S = 240, 15  # at most, on a busy machine
END_S = 90
ONE_ACTOR = "resources.num_actors=1"
GOES_ON = r"spire run: interrupted: spire resume [a-z-]+ goes on from .*"


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory, mnist_root: Path) -> str:
    """The state at the end of a run that nothing happens to."""
    words = ("run", "smoke", *SETTINGS, "resources.pool=local")
    return answer(tmp_path_factory.mktemp("whole"), mnist_root, *words)["state_fingerprint"]


@pytest.fixture
def begun(tmp_path: Path, mnist_root: Path) -> Iterator[Command]:
    """A run in one of its first rounds."""
    command = Command(tmp_path, mnist_root, "run", "smoke", *SETTINGS, ONE_ACTOR)
    try:
        command.wait_until(lambda: command.num_rounds >= 2, START_S)
        yield command
    finally:
        command.kill()


def assert_goes_on(command: Command, mnist_root: Path, expected: str) -> None:
    assert command.left_behind(LEFT_S) == []
    told = answer(command.folder, mnist_root, "resume", "last", "resources.pool=local")
    assert told["state_fingerprint"] == expected


def ended(number: signal.Signals, folder: Path, data: Path, *words: str) -> tuple[int, str]:
    """Send a signal to a command after some rounds; return its exit code and its sentence."""
    command = Command(folder, data, *words)
    try:
        goal = command.num_rounds + 3
        command.wait_until(lambda: command.num_rounds >= goal, START_S)
        command.process.send_signal(number)
        code, told = command.end(END_S)
        assert number == signal.SIGKILL or command.left_behind(LEFT_S) == []
        return code, told
    finally:
        command.kill()


def test_a_run_that_gets_sigterm_and_then_is_killed_goes_on(
    mnist_root: Path, tmp_path: Path, new_database: Path, expected: str
) -> None:
    """SIGTERM as batch systems and `ray job stop` send it; the store has each round once."""
    shutil.copy(new_database, tmp_path)
    words = [*SETTINGS, "tracking.enabled=true", "tracking.log_model=false", ONE_ACTOR]
    code, said = ended(signal.SIGTERM, tmp_path, mnist_root, "run", "smoke", *words)
    assert code == 130
    assert re.fullmatch(GOES_ON, said), said
    code, _ = ended(signal.SIGKILL, tmp_path, mnist_root, "resume", "last")
    assert code == -signal.SIGKILL
    told = answer(tmp_path, mnist_root, "resume", "last", "resources.pool=local")  # any will do
    assert told["state_fingerprint"] == expected
    assert answer(tmp_path, mnist_root, "resume", "last")["run_id"] == told["run_id"]  # it is over
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    assert client.get_run(told["run_id"]).info.status == "FINISHED"
    steps = [m.step for m in client.get_metric_history(told["run_id"], "pretrain/loss")]
    assert sorted(steps) == list(range(1, NUM_ROUNDS + 1))


def test_ctrl_c_keeps_the_last_round(begun: Command, mnist_root: Path, expected: str) -> None:
    """It goes to the whole group."""
    os.killpg(begun.process.pid, signal.SIGINT)
    code, told = begun.end(END_S)
    assert code == 130, begun.err.read_text()
    assert re.fullmatch(GOES_ON, told), told
    newest = max(begun.folder.glob("runs/*/checkpoints/0*/manifest.json"))
    assert int(newest.parent.name) == begun.num_rounds
    assert_goes_on(begun, mnist_root, expected)


@pytest.mark.parametrize(
    ("name", "number"), [("raylet", signal.SIGKILL), ("group", signal.SIGTERM)]
)
def test_a_run_that_loses_ray_ends_and_goes_on(
    begun: Command, name: str, number: signal.Signals, mnist_root: Path, expected: str
) -> None:
    if name == "group":
        os.killpg(begun.process.pid, number)
    else:
        begun.processes(name)[0].send_signal(number)
    code, _ = begun.end(END_S)
    assert code != 0
    assert_goes_on(begun, mnist_root, expected)


def test_an_interrupt_while_ray_starts_leaves_nothing(tmp_path: Path, mnist_root: Path) -> None:
    command = Command(tmp_path, mnist_root, "run", "smoke")
    try:
        command.wait_until(lambda: bool(command.processes("gcs_server")), START_S)
        command.process.send_signal(signal.SIGTERM)
        assert command.end(END_S) == (130, "spire run: interrupted")
        assert command.left_behind(LEFT_S) == []
    finally:
        command.kill()
