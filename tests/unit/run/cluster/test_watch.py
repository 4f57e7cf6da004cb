"""A cluster that is lost, or that stands still, ends every wait. Small fakes stand for Ray."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import psutil
import pytest
import ray

from pipeline.cluster import results, watch
from pipeline.cluster.watch import ClusterWatch, check_alive, end_actor, is_lost
from spire_core.errors import ClusterError

HERE = [{"NodeID": "here", "Alive": True}]


class Context:
    def get_node_id(self) -> str:
        return "here"


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The nodes that the control store names."""
    assert not ray.is_initialized(), "a real watch would find its node dead, and end this process"
    nodes = [dict(HERE[0])]
    monkeypatch.setattr(ray, "get_runtime_context", Context)
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    monkeypatch.setattr(watch, "PROBE_S", 0.01)
    monkeypatch.setattr(watch, "TICK_S", 0.01)
    monkeypatch.setattr(watch, "ENDING_S", 0.1)
    monkeypatch.setattr(watch, "SILENT_TICKS", 10**6)  # a test waits for one thing alone
    return nodes


@pytest.fixture
def watching(nodes: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Begin to watch; the error is raised wherever the watch is asked."""
    is_unused = threading.Event()
    threads = list[threading.Thread]()

    def begin(own: dict[int, str] | None = None) -> ClusterWatch:
        watched = ClusterWatch(is_unused)
        watched.own = own or {}
        watched.is_noticed = True  # this process stays
        monkeypatch.setattr(ClusterWatch, "current", watched)
        threads.append(threading.Thread(target=watched.run))
        threads[0].start()
        return watched

    yield begin
    is_unused.set()
    for thread in threads:
        thread.join()


def lost(within_s: float = 60.0) -> str:
    """The sentence with which the next wait ends."""
    end = time.monotonic() + within_s
    while not is_lost() and time.monotonic() < end:
        time.sleep(0.01)
    with pytest.raises(ClusterError) as error:
        check_alive()
    assert "spire resume goes on" in str(error.value)
    return str(error.value)


def test_a_cluster_that_answers_is_not_lost(watching: Any) -> None:
    watching()
    time.sleep(0.3)
    check_alive()


def test_the_end_of_a_process_of_ray_is_noticed_at_once(
    watching: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = subprocess.Popen(["sleep", "60"])
    monkeypatch.setattr(watch, "TICK_S", 60.0)  # as well as between two questions
    monkeypatch.setattr(watch, "PROBE_S", 60.0)
    watching({process.pid: "gcs_server"})
    time.sleep(0.1)
    check_alive()
    process.kill()
    began = time.monotonic()
    assert lost().startswith("expected Ray's control store (gcs_server) to run, got its end")
    assert time.monotonic() - began < 30
    process.wait()


def test_a_control_store_that_never_answers_is_lost(
    watching: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stand_still() -> None:
        forever.wait()

    forever = threading.Event()
    monkeypatch.setattr(ray, "nodes", stand_still)
    monkeypatch.setattr(watch, "SILENT_TICKS", 60)
    watching()
    assert lost().startswith("expected Ray's control store to answer, got none for 60 s")
    forever.set()


def test_a_node_that_counts_as_dead_is_lost(watching: Any, nodes: list[dict[str, Any]]) -> None:
    watching()
    time.sleep(0.1)
    check_alive()
    nodes[0]["Alive"] = False
    assert lost().startswith("expected this machine's node of Ray to answer, got a dead node")


def test_a_lost_actor_lets_the_control_store_be_asked(
    watching: Any, nodes: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "PROBE_S", 60.0)
    watching()
    time.sleep(0.1)
    nodes[0]["Alive"] = False
    began = time.monotonic()
    with pytest.raises(ClusterError, match="a dead node"):
        results.loss_error(ray.exceptions.ActorDiedError())
    assert time.monotonic() - began < 30


def test_a_lost_cluster_is_not_asked_to_end_actors(
    watching: Any, nodes: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    killed: list[object] = []
    monkeypatch.setattr(ray, "kill", killed.append)
    watching()
    end_actor("first")
    nodes[0]["Alive"] = False
    lost()
    end_actor("second")
    assert killed == ["first"]


def test_a_child_that_ends_meanwhile_is_none_of_rays_processes(
    nodes: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Git, which a run asks for its commit, is a child for a moment."""
    with subprocess.Popen(["true"]) as child:
        ended = psutil.Process(child.pid)
    monkeypatch.setattr(psutil.Process, "children", lambda self: [ended])
    watched = ClusterWatch(threading.Event())
    assert watched.own == {}
    watched.own = {child.pid: "raylet"}
    assert not watched.end_stopped()


def test_an_abandoned_process_ends_with_its_exit_code() -> None:
    script = """
import threading
from pipeline.cluster.watch import ClusterWatch
watch = object.__new__(ClusterWatch)
watch.own = {}
watch.abandon(2)
print("flushed")
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, env=os.environ
    )
    assert (done.returncode, done.stdout) == (2, "flushed\n"), done.stderr


@pytest.mark.parametrize(
    ("ends", "expected"),
    [
        ("return Answer('some trials failed', {}, 1)", 1),
        ("return Answer('well', {})", 0),
        ("raise SpireError('expected a, got b')", 2),
        ("raise ValueError('a mistake')", 1),
    ],
)
def test_an_abandoned_command_ends_with_the_code_of_its_answer(ends: str, expected: int) -> None:
    """The block of its cluster ended before, and could not know it."""
    script = f"""
import sys
from pipeline.cli.command import Answer, run_command, verb
from pipeline.cluster.leaving import leave_with
from spire_core.errors import SpireError

@verb()
def go():
    leave_with(0)
    {ends}

sys.exit(run_command(["go"], [go]))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, env=os.environ
    )
    assert done.returncode == expected, done.stderr
