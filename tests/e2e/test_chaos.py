"""The short form of `make chaos`: what no other test does to a whole run on real Ray.

A client's update is NaN, and is asked for again. Full disks, signals and lost servers have tests
of their own beside this.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "chaos.py"


@pytest.mark.slow
def test_disturbed_runs_end_as_if_undisturbed(mnist_root: Path, tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), "--runs", "1", "--seed", "8", "--rounds", "3"]
    command += ["--events", "nan-update"]
    command += ["--keep", str(tmp_path / "runs"), "--json", str(tmp_path / "table.json")]
    env = os.environ | {"SPIRE_DATA": str(mnist_root)}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    runs = json.loads((tmp_path / "table.json").read_text())["runs"]
    assert [run["event"] for run in runs] == ["nan-update"]
    assert all(run["has_fingerprint"] and run["has_points"] for run in runs)
