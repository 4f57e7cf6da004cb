"""Where Ray is looked for, and what its start leaves behind."""

import contextlib
import subprocess
import sys
import threading
from typing import Any

import pytest
import ray

from pipeline.cluster import session
from pipeline.cluster.session import starting_cluster
from spire_core.errors import ClusterError


@pytest.mark.parametrize("address", ["http://127.0.0.1:8265", "ray://127.0.0.1:10001"])
def test_an_address_of_no_head_is_refused_at_once(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    wanted = pytest.raises(ClusterError, match="expected RAY_ADDRESS as the HOST:PORT")
    with wanted, starting_cluster():
        raise AssertionError


@pytest.mark.parametrize("port", ["9", "99999"])
def test_an_address_without_an_answer_is_refused_at_once(
    port: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{port}")
    wanted = pytest.raises(ClusterError, match="expected a Ray head at RAY_ADDRESS=127")
    with wanted, starting_cluster():
        raise AssertionError


def test_an_error_without_a_text_is_named_by_its_type(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(**options: Any) -> None:
        raise ConnectionError

    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:6379")
    monkeypatch.setattr(session, "ENVIRONMENT", {})
    monkeypatch.setattr(ray, "init", fails)
    with pytest.raises(ClusterError, match=r"got ConnectionError \(ConnectionError\): check RAY"):
        session._connect(None)


def test_no_lock_around_forks_is_first_heard_of_while_ray_forks() -> None:
    hears = "print('concurrent.futures.thread' in sys.modules)"
    words = f"import sys, pipeline.cluster.session; {hears}"
    done = subprocess.run([sys.executable, "-c", words], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"


def test_a_block_that_ends_before_ray_runs_leaves_no_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    class Watch:
        """Watches a cluster that nobody uses any more."""

        current, loss = None, None

        def __init__(self, is_unused: threading.Event) -> None:
            assert is_unused.wait(60)

        def run(self) -> None:
            """Return at once."""

    monkeypatch.setattr(session, "ClusterWatch", Watch)
    monkeypatch.setattr(session, "watching_start", contextlib.nullcontext)
    monkeypatch.setattr(session, "_connect", lambda num_cpus: None)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    with starting_cluster():
        thread = next(t for t in threading.enumerate() if t.name == "ray")
    thread.join(60)
    assert Watch.current is None
