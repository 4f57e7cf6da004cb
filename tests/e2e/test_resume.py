"""Runs that end too early, by SIGTERM and by SIGKILL, and go on to the same result."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient
from typed_here import answer

from benchmarks.ray_desk import NOT_INHERITED, Command

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


# A disk of its own for a run, of 24 MB, which is filled as soon as there is a checkpoint. The first
# command's exit code goes to ./code, and what the second one answers to stdout.
ON_A_SMALL_DISK = """
mkdir disk && mount -t tmpfs -o size=24m tmpfs disk && touch mounted || exit 3
"$@" run smoke tracking.root=disk $SETTINGS 2> said & pid=$!
while kill -0 $pid && ! ls disk/runs/*/checkpoints/*/manifest.json; do sleep 0.05; done &> /dev/null
cat /dev/zero > disk/filler 2> /dev/null
wait $pid; echo $? > code
ls disk/runs/*/checkpoints > checkpoints; find disk -name '*.part' > parts
rm disk/filler
"$@" resume last tracking.root=disk --json
"""


def test_a_run_on_a_disk_that_gets_full_goes_on_when_there_is_room(
    expected: str, mnist_root: Path, tmp_path: Path
) -> None:
    env = {k: v for k, v in os.environ.items() if k not in NOT_INHERITED}
    env |= {"SPIRE_DATA": str(mnist_root)}
    settings = [*SETTINGS, "resources.pool=local", "tracking.enabled=false"]
    words = ["unshare", "--user", "--map-root-user", "--mount", "bash", "-c", ON_A_SMALL_DISK, "-"]
    try:
        done = subprocess.run(
            [*words, sys.executable, "-m", "pipeline"],
            cwd=tmp_path,
            env=env | {"SETTINGS": " ".join(settings)},
            capture_output=True,
            text=True,
            timeout=600,
        )
    except FileNotFoundError:
        pytest.skip(
            "this machine has no `unshare`: tests/unit/run/files/test_atomic.py covers the rest"
        )
    if not (tmp_path / "mounted").exists():
        pytest.skip(f"no disk of its own can be mounted here: {done.stderr.strip()}")
    said = (tmp_path / "said").read_text()
    assert (tmp_path / "code").read_text() == "2\n", said
    assert "No space left on device" in said
    assert "Traceback" not in said
    assert "0000003" in (tmp_path / "checkpoints").read_text()
    assert (tmp_path / "parts").read_text() == ""
    assert json.loads(done.stdout)["state_fingerprint"] == expected, done.stderr
