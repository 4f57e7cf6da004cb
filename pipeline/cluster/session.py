"""The Ray cluster around this process: its start, its nodes and its end."""

import concurrent.futures.thread  # noqa: F401  # a module with hooks around forks: before any fork
import contextlib
import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import ray

from pipeline.cluster.actor_plan import allotted_cpus
from spire_core.errors import ClusterError, first_line

ROOT = Path(__file__).resolve().parents[2]  # holds the packages spire_core, pipeline and sweeps
ANSWER_S = 10.0  # for a first answer of a head
ENVIRONMENT = {  # defaults for a cluster that starts here
    "RAY_worker_niceness": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",  # the memory of its processes in huge pages
}


@contextlib.contextmanager
def cluster(num_cpus: int | None = None) -> Iterator[Mapping[str, float]]:
    """Yield the resources of a Ray cluster.

    A cluster that this process is part of is used as it is. Otherwise it is the one at RAY_ADDRESS,
    which is left at the end, or a new local one, which is shut down at the end. Linux ends a local
    one together with the thread that has started it. ClusterError if there is none.
    """
    if ray.is_initialized():
        yield ray.cluster_resources()
        return
    try:
        _connect(num_cpus)
        yield ray.cluster_resources()
    finally:
        ray.shutdown()


def _connect(num_cpus: int | None) -> None:
    address = os.environ.get("RAY_ADDRESS")
    options: dict[str, Any] = {"address": address}
    if address:
        _check_address(address)
    else:
        options = {"address": "local", "include_dashboard": False}
        options["num_cpus"] = num_cpus or allotted_cpus()
        with contextlib.suppress(OSError):  # Ray writes its token there, for everybody to read
            (Path.home() / ".ray").mkdir(mode=0o700, exist_ok=True)
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)  # that there is one
    on_terminate = signal.getsignal(signal.SIGTERM)
    try:
        # Workers import from the folder in which Ray starts. In the user's, a pipeline.py of the
        # user's own would be taken for the package.
        with contextlib.chdir(ROOT):
            ray.init(logging_level=logging.WARNING, configure_logging=False, **options)
    except SystemExit as error:  # with which Ray answers SIGTERM
        raise KeyboardInterrupt from error
    except Exception as error:  # of this very class if a start takes too long
        raise ClusterError(
            f"expected a Ray cluster at {address or 'this machine'}, got {type(error).__name__} "
            f"({first_line(error)}): start again, later if the machine is busy, "
            "and check RAY_ADDRESS and RAY_AUTH_MODE if you set them"
        ) from error
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, on_terminate)


def _check_address(address: str) -> None:
    """Raise ClusterError for an address of which no head answers soon; "auto" is none."""
    host, colon, port = address.rpartition(":")
    try:
        if colon:
            socket.create_connection((host.strip("[]"), int(port)), ANSWER_S).close()
    except (OSError, OverflowError, ValueError) as error:
        raise ClusterError(
            f"expected RAY_ADDRESS as the HOST:PORT of a Ray head, got {address} ({error}): its "
            "port is 6379 unless `ray start --head` was given another"
        ) from error


def cluster_nodes() -> list[Mapping[str, float]]:
    """Return the resources of each living node of the cluster."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def free_resources() -> dict[str, float]:
    """Return the free CPUs and GPUs of the cluster."""
    return {k: v for k, v in ray.available_resources().items() if k in ("CPU", "GPU")}


def check_node() -> None:
    """Raise ClusterError if this process's node of Ray is dead."""
    here = ray.get_runtime_context().get_node_id()
    if not any(node["Alive"] for node in ray.nodes() if node["NodeID"] == here):
        raise ClusterError(
            "expected this machine's node of Ray to answer, got a dead node: start again"
        )


def is_in_actor() -> bool:
    """Return whether this process is a Ray actor itself, such as a trial of a sweep."""
    return ray.is_initialized() and ray.get_runtime_context().get_actor_id() is not None
