"""A run in a control group with too little memory for a round's updates says so before round 1."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

LIMIT_BYTES = 3 * 2**30
NOT_INHERITED = ("MLFLOW_TRACKING_URI", "RAY_ADDRESS", "SPIRE_ROOT")
SETTINGS = ["model.width=128", "model.multipliers=[1,2,2]"]  # 15 million parameters
SETTINGS += ["resources.num_actors=1", "tracking.enabled=false", "eval.num_clients=2"]


@pytest.fixture
def group() -> Iterator[Path]:
    """A control group of version 1 or 2 with a limit, if this machine lets us make one."""
    version_1 = Path("/sys/fs/cgroup/memory")
    parent = version_1 if version_1.is_dir() else version_1.parent
    limit = "memory.limit_in_bytes" if version_1.is_dir() else "memory.max"
    folder = parent / f"spire-test-{os.getpid()}"
    try:
        folder.mkdir()
    except OSError:
        pytest.skip("control groups cannot be made here")
    try:
        if not (folder / limit).exists():
            pytest.skip("control groups have no limits of memory here")
        (folder / limit).write_text(str(LIMIT_BYTES))
        yield folder
    finally:
        remove(folder)


def remove(folder: Path) -> None:
    """Remove a control group when its last process has ended."""
    for _ in range(300):
        try:
            folder.rmdir()
            return
        except OSError:
            time.sleep(0.2)


def test_a_limit_that_a_round_does_not_fit_is_one_sentence(
    group: Path, mnist_root: Path, tmp_path: Path
) -> None:
    env = {k: v for k, v in os.environ.items() if k not in NOT_INHERITED}
    command = [sys.executable, "-m", "pipeline", "run", "smoke", *SETTINGS]
    done = subprocess.run(
        ["sh", "-c", f'echo $$ > {group}/cgroup.procs && exec "$@"', "sh", *command],
        cwd=tmp_path,
        env=env | {"SPIRE_DATA": str(mnist_root)},
        capture_output=True,
        text=True,
        check=False,
        timeout=400,
    )
    assert done.returncode == 2, done.stderr
    told = done.stderr.splitlines()[-1]
    assert told.startswith("spire run: expected memory for 1 client actors, got ")
    assert "MiB for a step of each" in told
    assert "federation.cohort_size" in told
