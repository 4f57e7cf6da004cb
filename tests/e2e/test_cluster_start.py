"""A Ray cluster that starts beside other work, in processes of their own: its use and its end."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from benchmarks.ray_desk import MARK, marked

NOT_INHERITED = ("MLFLOW_TRACKING_URI", "RAY_ADDRESS", "SPIRE_ROOT")
SEES = "import json, psutil, ray, sys, time\nfrom pipeline.cluster.session import *\n"
LEFT = "print(json.dumps(ray.is_initialized()))"
BESIDE = """
with starting_cluster(num_cpus=2) as ready:
    early = ray.is_initialized()
    cpus = ready()["CPU"]
    with cluster(num_cpus=7) as inner, starting_cluster(num_cpus=7) as again:
        same = [inner["CPU"], again()["CPU"]]
    time.sleep(2)  # its processes outlive the start
    begun = " ".join(word for child in psutil.Process().children() for word in child.cmdline())
    needed = [name in begun for name in ("raylet", "log_monitor", "dashboard.py", "autoscaler")]
    answer = ray.get(ray.remote(num_cpus=1)(lambda: 6 * 7).remote(), timeout=60)
print(json.dumps([early, cpus, same, answer, needed]))
"""
TERMINATED = """
import os, signal
from pipeline.cluster import session
from pipeline.cluster.session import _Cluster
session.GIVING_UP_S = 60.0  # a busy machine takes longer to shut Ray down
signal.signal(signal.SIGTERM, signal.default_int_handler)
try:
    with starting_cluster():
        _Cluster.current.running.result()  # it runs, and nobody has asked for it yet
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)
except KeyboardInterrupt:
    print(json.dumps("heard"))
"""
WRONG_RUN = """
import sys
from pipeline.cli.main import main
from pipeline.cluster import session
session.FAILED_S = 120.0  # a busy machine takes longer to start Ray, and to shut it down
sys.exit(main(["run", "smoke", *sys.argv[1:]]))
"""
INTERRUPTED = """
import sys
from pipeline.cli.main import main
from pipeline.cluster import session
session.GIVING_UP_S = float(sys.argv[1])
sys.exit(main(["run", "smoke"]))
"""
NOBODY = """
from spire_core.errors import ClusterError
try:
    with starting_cluster() as ready:
        ready()
except ClusterError as error:
    print(json.dumps(str(error)))
"""


def begun(folder: Path, *words: str, **env: str) -> subprocess.Popen[str]:
    """Begin a process here, marked so that what it leaves behind can be found."""
    inherited = {k: v for k, v in os.environ.items() if k not in NOT_INHERITED}
    env = inherited | {MARK: str(folder)} | env
    pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, *words], cwd=folder, env=env, **pipes)


def typed(folder: Path, *words: str, **env: str) -> tuple[int, str, str]:
    """Run such a process; return its exit code, what it prints and what it says."""
    with begun(folder, *words, **env) as process:
        out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def left_behind(folder: Path) -> list[str]:
    """The processes that `typed` began and that still run after a while."""
    until = time.monotonic() + 15  # for what Ray has told to end
    while running(folder) and time.monotonic() < until:
        time.sleep(0.1)
    return running(folder)


def running(folder: Path) -> list[str]:
    """The processes that `typed` began and that run now."""
    found = []
    for process in marked(str(folder)):
        with contextlib.suppress(psutil.Error):
            found.append(" ".join(process.cmdline()))
    return found


def lines_of(folder: Path, script: str, **env: str) -> list[Any]:
    code, out, err = typed(folder, "-c", f"{SEES}{script}{LEFT}", **env)
    assert (code, err) == (0, "")  # Ray has nothing to say that a user should read
    return [json.loads(line) for line in out.splitlines()]


def test_it_starts_beside_other_work_and_serves_what_asks_for_a_cluster(tmp_path: Path) -> None:
    needed = [True, True, False, False]
    assert lines_of(tmp_path, BESIDE) == [[False, 2, [2, 2], 42, needed], False]
    assert left_behind(tmp_path) == []


def test_a_signal_is_heard_as_before_once_ray_has_started(tmp_path: Path) -> None:
    """Ray's library takes SIGTERM for itself, and would abort the process."""
    assert lines_of(tmp_path, TERMINATED) == ["heard", False]
    assert left_behind(tmp_path) == []


def test_an_address_that_is_none_is_one_sentence(tmp_path: Path) -> None:
    told, left = lines_of(tmp_path, NOBODY, RAY_ADDRESS="nowhere")
    assert told.startswith("expected a Ray cluster at nowhere, got ValueError (")
    assert "\n" not in told
    assert left is False


def test_a_wrong_run_ends_with_its_sentence_and_leaves_nothing(
    tmp_path: Path, mnist_root: Path
) -> None:
    settings = ("adapt.early_stopping=true", "adapt.num_images=1")
    code, _, err = typed(tmp_path, "-c", WRONG_RUN, *settings, SPIRE_DATA=str(mnist_root))
    assert code == 2
    assert "expected at least 2 training images of each new client" in err
    assert len(err.strip().splitlines()) == 1
    assert left_behind(tmp_path) == []


def test_a_wrong_run_ends_though_its_cluster_never_answers(
    tmp_path: Path, mnist_root: Path
) -> None:
    words = ("-m", "pipeline", "run", "smoke", "data.image_size=14")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        where = f"127.0.0.1:{silent.getsockname()[1]}"
        code, _, err = typed(tmp_path, *words, RAY_ADDRESS=where, SPIRE_DATA=str(mnist_root))
    assert code == 2
    assert "expected data.image_size divisible by 4" in err  # beside what Ray's library says
    assert left_behind(tmp_path) == []


def await_process(folder: Path, name: str, process: subprocess.Popen[str]) -> psutil.Process:
    """Wait until Ray starts one of its processes below a command."""
    until = time.monotonic() + 180
    while time.monotonic() < until:
        for found in marked(str(folder)):
            with contextlib.suppress(psutil.Error):
                if found.name() == name:
                    return found
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    raise AssertionError(f"no {name} within 180 s")


def assert_told_its_end(process: subprocess.Popen[str], name: str) -> None:
    """A command ends with one sentence about a process of Ray that has ended.

    Ray's library would wait for it for minutes.
    """
    _, err = process.communicate(timeout=150)
    assert process.returncode == 2, err
    told = [line for line in err.splitlines() if line.startswith("spire")]
    assert len(told) == 1
    assert f"({name}) to " in told[0]
    assert "got its end: start again" in told[0]


def test_a_node_that_ends_while_it_starts_is_one_sentence(tmp_path: Path, mnist_root: Path) -> None:
    smoke = ("-m", "pipeline", "run", "smoke")
    with begun(tmp_path, *smoke, SPIRE_DATA=str(mnist_root)) as process:
        await_process(tmp_path, "raylet", process).kill()
        assert_told_its_end(process, "raylet")
    assert left_behind(tmp_path) == []


def test_a_start_that_is_lost_leaves_nothing_that_would_not_end_by_itself(
    tmp_path: Path, mnist_root: Path
) -> None:
    """Agents of Ray ask the control store before they end, in vain; here one stands still.

    Before the node process starts, Ray's library waits 30 s for a lost control store, and lets no
    other thread run.
    """
    smoke = ("-m", "pipeline", "run", "smoke")
    with begun(tmp_path, *smoke, SPIRE_DATA=str(mnist_root)) as process:
        raylet = await_process(tmp_path, "raylet", process)
        while not (agents := raylet.children()):
            time.sleep(0.05)
        agents[0].suspend()
        await_process(tmp_path, "gcs_server", process).kill()
        assert_told_its_end(process, "gcs_server")
    assert left_behind(tmp_path) == []


@pytest.mark.parametrize("wait_s", [0.0, 60.0])
def test_an_interrupt_while_it_starts_leaves_nothing(
    tmp_path: Path, mnist_root: Path, wait_s: float
) -> None:
    """Ray's library would abort a process that ends while it starts: nobody waits for it here."""
    with begun(tmp_path, "-c", INTERRUPTED, str(wait_s), SPIRE_DATA=str(mnist_root)) as process:
        await_process(tmp_path, "gcs_server", process)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (130, "spire run: interrupted\n")
    assert left_behind(tmp_path) == []


def test_a_second_interrupt_while_ray_starts_is_none_of_rays(
    tmp_path: Path, mnist_root: Path
) -> None:
    """The first one waits for the start, and the user presses again."""
    with begun(tmp_path, "-c", INTERRUPTED, "60.0", SPIRE_DATA=str(mnist_root)) as process:
        await_process(tmp_path, "gcs_server", process)
        process.send_signal(signal.SIGINT)
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (130, "spire run: interrupted\n")
    assert left_behind(tmp_path) == []
