"""Ray's processes are killed or stand still in a run: it ends with a sentence, and goes on later.

Limits that are half a minute in use are a few seconds here. The driver's actor and those of the
clients are lost in tests/cluster/test_pools.py.
"""

import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from typed_here import answer

from benchmarks.ray_desk import Command

COMMAND = """
import sys
from pipeline.cli.main import main
from pipeline.cluster import session, watch
watch.SILENT_TICKS = 8
session.ENDING_S = session.FAILED_S = 120.0  # an interrupt waits for neither
sys.exit(main(sys.argv[1:]))
"""
SETTINGS = ["tracking.checkpoint_every=1", "tracking.enabled=false"]
SETTINGS += ["federation.tau=2", "eval.every=0", "eval.extractor=none", "eval.num_loss_images=8"]
SETTINGS += ["eval.num_clients=2", "adapt.epochs=1"]
# The control store asks the node 5 times, every 3 s, and waits 10 s for each answer.
ASKS = {"RAY_health_check_period_ms": "1000", "RAY_health_check_timeout_ms": "2000"}
ONE_ACTOR = "resources.num_actors=1"
START_S, END_S, LEFT_S = 240, 120, 15  # at most, on a busy machine
MANY_ROUNDS = "federation.num_rounds=1000"


def typed(folder: Path, mnist_root: Path, *words: str) -> Command:
    return Command(folder, mnist_root, *words, start=("-c", COMMAND), **ASKS)


@pytest.fixture
def begun(tmp_path: Path, mnist_root: Path) -> Iterator[Command]:
    """A run in one of its first rounds."""
    command = typed(tmp_path, mnist_root, "run", "smoke", *SETTINGS, ONE_ACTOR, MANY_ROUNDS)
    try:
        command.wait_until(lambda: command.num_rounds >= 2, START_S)
        yield command
    finally:
        command.kill()


@pytest.mark.parametrize(
    ("name", "number", "sentence"),
    [
        ("gcs_server", signal.SIGKILL, "expected Ray's control store (gcs_server) to run"),
        ("gcs_server", signal.SIGSTOP, "expected Ray's control store to answer"),
        ("raylet", signal.SIGSTOP, "expected this machine's node of Ray to answer"),
    ],
)
def test_a_loss_is_one_sentence(
    begun: Command, name: str, number: signal.Signals, sentence: str
) -> None:
    [process] = begun.processes(name)
    process.send_signal(number)
    assert_lost(begun, sentence)


def assert_lost(command: Command, sentence: str) -> None:
    """It ends with a sentence, and leaves no process behind."""
    code, told, _ = command.end(END_S)
    assert code == 2, command.err.read_text()
    assert sentence in told  # told by the command, or by the watch where Ray holds the main thread
    assert "spire resume goes on" in told
    assert command.left_behind(LEFT_S)[0] == []


@pytest.mark.parametrize("name", ["DriverActor", "raylet", "gcs_server"])
def test_an_interrupt_ends_though_ray_stands_still(begun: Command, name: str) -> None:
    [process] = begun.processes(name)
    process.suspend()
    begun.process.send_signal(signal.SIGINT)
    code, told, seconds = begun.end(END_S)
    assert code == 130, begun.err.read_text()
    assert re.fullmatch(r"spire run: interrupted: spire resume \w+ goes on from .*", told), told
    assert seconds < 20  # 10 on a machine with nothing else to do
    assert begun.left_behind(LEFT_S)[0] == []


def test_a_run_that_lost_ray_goes_on_to_the_same_result(tmp_path: Path, mnist_root: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir()
    parts.mkdir()
    settings = [*SETTINGS, "federation.num_rounds=12"]
    command = typed(parts, mnist_root, "run", "smoke", *settings, ONE_ACTOR)
    command.wait_until(lambda: command.num_rounds >= 2, START_S)
    command.processes("raylet")[0].kill()
    assert_lost(command, "expected Ray's node process (raylet) to run")
    resumed = answer(parts, mnist_root, "resume", "last", "resources.pool=local")
    local = answer(whole, mnist_root, "run", "smoke", *settings, "resources.pool=local")
    assert resumed["state_fingerprint"] == local["state_fingerprint"]
