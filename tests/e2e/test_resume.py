"""Runs that end too early, by SIGTERM and by SIGKILL, and go on to the same result."""

import contextlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from pipeline.cli.main import main

SETTINGS = ["tracking.checkpoint_every=3", "resources.num_actors=1", "federation.num_rounds=30"]
SETTINGS += ["eval.every=0", "eval.num_images=16", "eval.num_loss_images=8", "eval.num_clients=2"]
SETTINGS += ["adapt.epochs=1", "tracking.log_model=false"]
NOT_INHERITED = ("MLFLOW_TRACKING_URI", "RAY_ADDRESS", "SPIRE_ROOT")


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "pipeline", *words]


@pytest.fixture(scope="module")
def env(mnist_root: Path) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if k not in NOT_INHERITED}
    return kept | {"SPIRE_DATA": str(mnist_root)}


def answer(folder: Path, env: dict[str, str], *words: str) -> dict[str, Any]:
    """Type a command in this process; return the object that it prints."""
    out = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.chdir(folder):
        for name in NOT_INHERITED:
            patch.delenv(name, raising=False)
        patch.setenv("SPIRE_DATA", env["SPIRE_DATA"])
        with contextlib.redirect_stdout(out):
            assert main([*words, "--json"]) == 0
    return json.loads(out.getvalue())


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory, env: dict[str, str]) -> str:
    folder = tmp_path_factory.mktemp("whole")
    words = ("run", "smoke", *SETTINGS, "resources.pool=local", "tracking.enabled=false")
    return answer(folder, env, *words)["state_fingerprint"]


def checkpoints(folder: Path) -> list[int]:
    found = folder.glob("runs/*/checkpoints/*/manifest.json")
    return sorted(int(p.parent.name) for p in found if p.parent.name.isdecimal())


def end_early(
    kind: signal.Signals, folder: Path, env: dict[str, str], *words: str
) -> tuple[int, str]:
    """End a command after its next checkpoint; return its exit code and what it said."""
    before = checkpoints(folder)
    with (folder / "stderr").open("w") as stderr:
        run = subprocess.Popen(
            command(*words),
            cwd=folder,
            env=env,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            start_new_session=True,
        )
    deadline = time.monotonic() + 120
    while checkpoints(folder)[-1:] == before[-1:] and time.monotonic() < deadline:
        assert run.poll() is None, (folder / "stderr").read_text()
        time.sleep(0.05)
    os.killpg(run.pid, kind) if kind == signal.SIGKILL else run.send_signal(kind)
    code = run.wait(timeout=120)
    assert checkpoints(folder)[-1] < 30, "the run was too quick to be ended"
    return code, (folder / "stderr").read_text()


def test_a_run_that_was_ended_early_and_then_killed_goes_on(
    expected: str, env: dict[str, str], tmp_path: Path, new_database: Path
) -> None:
    shutil.copy(new_database, tmp_path)
    code, said = end_early(signal.SIGTERM, tmp_path, env, "run", "smoke", *SETTINGS)
    assert code == 130
    assert "spire resume" in said
    assert "Traceback" not in said
    code, said = end_early(signal.SIGKILL, tmp_path, env, "resume", "last")
    assert code == -signal.SIGKILL
    told = answer(tmp_path, env, "resume", "last", "resources.pool=local")  # any pool will do
    assert told["state_fingerprint"] == expected
    assert answer(tmp_path, env, "resume", "last")["run_id"] == told["run_id"]  # it has finished
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    assert client.get_run(told["run_id"]).info.status == "FINISHED"
    steps = [m.step for m in client.get_metric_history(told["run_id"], "pretrain/loss")]
    assert sorted(steps) == list(range(1, 31))


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
    expected: str, env: dict[str, str], tmp_path: Path
) -> None:
    settings = [*SETTINGS, "resources.pool=local", "tracking.enabled=false"]
    words = ["unshare", "--user", "--map-root-user", "--mount", "bash", "-c", ON_A_SMALL_DISK, "-"]
    try:
        done = subprocess.run(
            [*words, *command()],
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
    assert "spire run: expected room for " in said
    assert "No space left on device" in said
    assert "Traceback" not in said
    assert "0000003" in (tmp_path / "checkpoints").read_text()
    assert (tmp_path / "parts").read_text() == ""
    assert json.loads(done.stdout)["state_fingerprint"] == expected, done.stderr
