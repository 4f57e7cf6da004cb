"""The short form of `make chaos`: a run on real Ray loses an actor, and MLflow has it once."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_a_disturbed_run_ends_as_if_undisturbed(mnist_root: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.chaos", "--runs", "1", "--rounds", "3"]
    env = os.environ | {"SPIRE_DATA": str(mnist_root)}
    done = subprocess.run(
        [*command, "--events", "client-kill"], cwd=ROOT, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "SIGKILL of a client actor" in done.stdout
