"""A process that has lost its Ray: a script keeps what it has written, and begins nothing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import spire
from pipeline.cluster import leaving
from pipeline.cluster.session import starting_cluster
from spire_core.errors import ClusterError

LOST = """
import atexit, sys
calls = []
atexit.register(lambda: print(*calls))  # before SPIRE is imported
from pipeline.cluster.leaving import ends_as_usual, leave_with
log = open(sys.argv[1], "w")
log.write("kept")
closed = open(sys.argv[1] + ".closed", "w")
closed.close()
atexit.register(calls.append, "middle")
leave_with(2)
"""
ENDS = {
    "": 2,
    "leave_with(130)": 130,
    "ends_as_usual()": 0,
    "sys.exit(3)": 2,
    "raise ValueError": 2,
}


@pytest.mark.parametrize("last", ENDS)
def test_a_script_that_goes_on_has_its_handlers_once_and_its_files(
    last: str, tmp_path: Path
) -> None:
    words = [sys.executable, "-c", LOST + last, str(tmp_path / "log")]
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=os.environ)
    assert (done.returncode, done.stdout) == (ENDS[last], "middle\n"), done.stderr
    assert (tmp_path / "log").read_text() == "kept"


@pytest.mark.parametrize("pool", ["ray", "local"])
def test_a_process_that_has_lost_ray_begins_no_run(
    pool: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leaving, "_exit_code", 2)
    monkeypatch.setenv("SPIRE_ROOT", str(tmp_path))
    with pytest.raises(ClusterError, match=r"start a new process, where spire\.resume goes on"):
        spire.run("smoke", {"resources.pool": pool, "tracking.enabled": False})
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ClusterError, match="got one that has lost it"), starting_cluster():
        raise AssertionError
