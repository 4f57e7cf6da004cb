"""A Ray cluster around a block, in processes of their own: its use and its end."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from benchmarks.ray_desk import MARK, NOT_INHERITED, Command, marked

SEES = "import json, os, ray, signal, time\nfrom pipeline.cluster.session import cluster\n"
LEFT = "print(json.dumps(ray.is_initialized()))"
USED = """
signal.signal(signal.SIGTERM, signal.default_int_handler)
try:
    with cluster(num_cpus=2) as have, cluster(num_cpus=7) as inner:
        same = [have["CPU"], inner["CPU"]]
        doc = ray.get(ray.remote(num_cpus=1)(lambda: __import__("pipeline").__doc__).remote())
        print(json.dumps([same, doc]))
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)
except KeyboardInterrupt:
    print(json.dumps("heard"))
"""


def lines_of(folder: Path, script: str, **env: str) -> list[Any]:
    """Run a script in a process of its own; return the lines that it prints."""
    inherited = {k: v for k, v in os.environ.items() if k not in NOT_INHERITED}
    done = subprocess.run(
        [sys.executable, "-c", f"{SEES}{script}{LEFT}"],
        cwd=folder,
        env=inherited | {MARK: str(folder)} | env,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert (done.returncode, done.stderr) == (0, "")  # Ray has nothing to say that a user needs
    assert left_behind(folder) == []
    return [json.loads(line) for line in done.stdout.splitlines()]


def left_behind(folder: Path) -> list[psutil.Process]:
    until = time.monotonic() + 15  # for what Ray has told to end
    while marked(str(folder)) and time.monotonic() < until:
        time.sleep(0.1)
    return marked(str(folder))


@pytest.mark.slow
def test_a_block_has_a_cluster_whose_workers_import_nothing_of_the_users(tmp_path: Path) -> None:
    """Ray takes SIGTERM for itself; it is heard as before once Ray has started."""
    import pipeline

    (tmp_path / "pipeline.py").write_text('"""A file of the user\'s own."""')
    env = {"PYTHONPATH": str(Path(pipeline.__file__).parents[1]), "PYTHONSAFEPATH": "1"}
    told, heard, left = lines_of(tmp_path, USED, **env)
    assert told == [[2, 2], pipeline.__doc__]
    assert (heard, left) == ("heard", False)


@pytest.mark.slow
def test_an_interrupt_while_it_starts_leaves_nothing(tmp_path: Path, mnist_root: Path) -> None:
    command = Command(tmp_path, mnist_root, "run", "smoke")
    try:
        command.wait_until(lambda: bool(command.processes("gcs_server")), 180)
        command.process.send_signal(signal.SIGTERM)
        assert command.end(120) == (130, "spire run: interrupted")
        assert command.left_behind(15) == []
    finally:
        command.kill()
