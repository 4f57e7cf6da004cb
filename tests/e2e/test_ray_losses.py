"""Ray's processes are killed or stand still in a run: it ends with a sentence, and goes on later.

Limits that are half a minute in use are a few seconds here.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from pipeline.runs.layout import RECORD
from pipeline.tracking.outbox import read_points

MARK = "SPIRE_TEST_OF_RAY_LOSSES"
NOT_INHERITED = ("MLFLOW_TRACKING_URI", "RAY_ADDRESS", "SPIRE_ROOT")
COMMAND = """
import sys
from pipeline.cli.main import main
from pipeline.cluster import driver_actor, watch
driver_actor.PULSE_TICKS = watch.SILENT_TICKS = 8
sys.exit(main(sys.argv[1:]))
"""
SETTINGS = ["resources.num_actors=1", "tracking.checkpoint_every=1", "tracking.enabled=false"]
SETTINGS += ["federation.tau=2", "eval.every=0", "eval.num_images=16", "eval.num_loss_images=8"]
SETTINGS += ["eval.num_clients=2", "adapt.epochs=1"]
START_S, END_S = 240, 120  # at most, on a busy machine
MANY_ROUNDS = "federation.num_rounds=1000"


class Command:
    """A command in a session of its own, and what became of it."""

    def __init__(self, folder: Path, mnist_root: Path, *words: str) -> None:
        env = {k: v for k, v in os.environ.items() if k not in NOT_INHERITED}
        env |= {MARK: str(folder), "SPIRE_DATA": str(mnist_root)}
        self.folder, self.out, self.err = folder, folder / "stdout", folder / "stderr"
        with self.out.open("w") as out, self.err.open("w") as err:
            self.process = subprocess.Popen(
                [sys.executable, "-c", COMMAND, *words, "--json"],
                cwd=folder,
                env=env,
                stdout=out,
                stderr=err,
                text=True,
                start_new_session=True,
            )

    @property
    def num_rounds(self) -> int:
        """The rounds that have been recorded so far."""
        run_dirs = [path.parent for path in self.folder.glob(f"runs/*/{RECORD}")]
        points = [metrics for run_dir in run_dirs for _, metrics in read_points(run_dir)]
        return sum("pretrain/loss" in metrics for metrics in points)

    def wait_until(self, is_true: Callable[[], bool]) -> None:
        end = time.monotonic() + START_S
        while not is_true():
            assert self.process.poll() is None, self.err.read_text()
            assert time.monotonic() < end, self.err.read_text()
            time.sleep(0.2)

    def processes(self, name: str) -> list[psutil.Process]:
        """The processes of the command's Ray with a name, or of its actors of a class."""
        found = []
        for child in psutil.Process(self.process.pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                title = "".join(child.cmdline()[:1])
                if child.name() == name or title.startswith(f"ray::{name}"):
                    found.append(child)
        return found

    def end(self) -> tuple[int, str, float]:
        """Return the exit code, the command's sentence and the seconds that the end took.

        Ray's library may write to stderr after it.
        """
        began = time.monotonic()
        self.process.wait(END_S)
        seconds, text = time.monotonic() - began, self.err.read_text()
        sentences = [line for line in text.splitlines() if line.startswith("spire run: ")]
        return self.process.returncode, (sentences or [text])[-1], seconds

    def left_behind(self) -> list[str]:
        """The processes that still run after a while."""
        end = time.monotonic() + 15
        while (running := self._running()) and time.monotonic() < end:
            time.sleep(0.1)
        return running

    def _running(self) -> list[str]:
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get(MARK) == str(self.folder):
                    found.append(" ".join(process.cmdline()))
        return found

    def kill(self) -> None:
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get(MARK) == str(self.folder):
                    process.kill()
        self.process.wait()


@pytest.fixture
def begun(tmp_path: Path, mnist_root: Path) -> Iterator[Command]:
    """A run in one of its first rounds."""
    command = Command(tmp_path, mnist_root, "run", "smoke", *SETTINGS, MANY_ROUNDS)
    try:
        command.wait_until(lambda: command.num_rounds >= 2)
        yield command
    finally:
        command.kill()


@pytest.mark.parametrize(
    ("name", "number", "sentence"),
    [
        ("raylet", signal.SIGKILL, "expected Ray's node process (raylet) to run"),
        ("gcs_server", signal.SIGKILL, "expected Ray's control store (gcs_server) to run"),
        ("gcs_server", signal.SIGSTOP, "expected Ray's control store to answer"),
        ("raylet", signal.SIGSTOP, "expected this machine's node of Ray to answer"),
        ("DriverActor", signal.SIGSTOP, "expected the driver's process to answer"),
    ],
)
def test_a_loss_is_one_sentence(
    begun: Command, name: str, number: signal.Signals, sentence: str
) -> None:
    [process] = begun.processes(name)
    process.send_signal(number)
    code, told, _ = begun.end()
    assert code == 2, begun.err.read_text()
    assert told.startswith(f"spire run: {sentence}")
    assert "spire resume goes on" in told
    assert begun.left_behind() == []


@pytest.mark.parametrize("name", ["DriverActor", "raylet", "gcs_server"])
def test_an_interrupt_ends_though_ray_stands_still(begun: Command, name: str) -> None:
    [process] = begun.processes(name)
    process.suspend()
    begun.process.send_signal(signal.SIGINT)
    code, told, seconds = begun.end()
    assert code == 130, begun.err.read_text()
    assert told.startswith("spire run: interrupted")
    assert seconds < 20  # 10 on a machine with nothing else to do
    assert begun.left_behind() == []


def test_a_signal_to_the_group_ends_as_an_interrupt(begun: Command) -> None:
    """As batch systems and containers send it: Ray's processes do not get it."""
    os.killpg(begun.process.pid, signal.SIGTERM)
    code, told, _ = begun.end()
    assert code == 130, begun.err.read_text()
    assert told.startswith("spire run: interrupted")
    kept = begun.folder.glob("runs/*/checkpoints/[0-9]*/manifest.json")
    assert max(int(path.parent.name) for path in kept) == begun.num_rounds
    assert begun.left_behind() == []


def test_a_run_that_lost_ray_goes_on_to_the_same_result(tmp_path: Path, mnist_root: Path) -> None:
    def answer(command: Command) -> str:
        assert command.process.wait(START_S) == 0, command.err.read_text()
        return json.loads(command.out.read_text())["state_fingerprint"]

    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir()
    parts.mkdir()
    settings = [*SETTINGS, "federation.num_rounds=40"]
    command = Command(parts, mnist_root, "run", "smoke", *settings)
    command.wait_until(lambda: command.num_rounds >= 2)
    command.processes("raylet")[0].kill()
    assert command.end()[0] == 2
    resumed = answer(Command(parts, mnist_root, "resume", "last", "resources.pool=local"))
    local = Command(whole, mnist_root, "run", "smoke", *settings, "resources.pool=local")
    assert resumed == answer(local)
