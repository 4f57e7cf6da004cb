"""The Ray cluster around this process: its start, its resources and its end."""

import contextlib
import ctypes
import functools
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from concurrent.futures import thread as _thread  # noqa: F401  # see _Cluster
from typing import Any

import ray
from ray._private import services
from ray._private.node import Node

from pipeline.cluster.actor_plan import allotted_cpus
from pipeline.cluster.address import check_address
from pipeline.cluster.import_path import SafePathJob
from pipeline.cluster.leaving import check_stays, ends_as_usual, leave_with
from pipeline.cluster.token import keep_token_private
from pipeline.cluster.watch import (
    INTERRUPTED,
    USER_ERROR,
    ClusterWatch,
    watching_start,
)
from spire_core.errors import ClusterError, first_line

TOKEN_NOTICES = "ray._private.authentication.authentication_token_setup"
NO_HANDLER = "SIGTERM handler is not set"  # on purpose: Ray's would exit in mid-sentence
ENDING_S = 60.0  # the wait for the end of a local cluster that is not needed any more
FAILED_S = 20.0  # the same after an error, which may be that Ray does not answer
GIVING_UP_S = 5.0  # the same for a cluster elsewhere, and after an interrupt: it may not answer
ENVIRONMENT = {  # defaults for a cluster that starts here (docs/performance.md)
    "RAY_worker_niceness": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",  # the memory of its processes in huge pages
}
_PYTHON = ctypes.PyDLL(None)  # a signal's handler as the system has it, from any thread
_PYTHON.PyOS_getsig.restype = ctypes.c_void_p
_PYTHON.PyOS_setsig.argtypes = [ctypes.c_int, ctypes.c_void_p]
_log = logging.getLogger(__name__)
Ready = Callable[[], Mapping[str, float]]


class _Cluster(threading.Thread):
    """Ray in a thread that lives as long as the cluster.

    Linux ends Ray's processes together with the thread that has started them. The cluster is the
    one at RAY_ADDRESS, or else a local one. Ray allows one at a time.

    This module imports `concurrent.futures.thread`, whose hooks take a lock before a fork and give
    it back after it: imported elsewhere while Ray forks, it would give back what it never took.
    """

    current: "_Cluster | None" = None

    def __init__(self, num_cpus: int | None) -> None:
        super().__init__(name="ray", daemon=True)
        self.num_cpus = num_cpus
        self.running, self.is_unused = Future[None](), threading.Event()
        self.is_lost_at_start = False

    def run(self) -> None:
        try:
            with watching_start(self._lose_start):
                _connect(self.num_cpus)
            if self.is_lost_at_start:
                return
            watch = ClusterWatch(self.is_unused)
        except BaseException as error:
            if not self.is_lost_at_start:
                self.running.set_exception(error)
        else:
            ClusterWatch.current = watch
            self.running.set_result(None)
            watch.run()
            if watch.loss is not None:  # this thread lives on, or Ray's processes end before it
                threading.Event().wait()
            if ClusterWatch.current is watch:  # the block had ended before Ray ran
                ClusterWatch.current = None
        ray.shutdown()
        ends_as_usual()

    def _lose_start(self, loss: ClusterError) -> None:
        """End the wait for a start that Ray's library goes on with in vain."""
        self.is_lost_at_start = True
        self.running.set_exception(loss)

    def ready(self) -> Mapping[str, float]:
        """Wait until it runs and return its resources; ClusterError if it cannot."""
        self.running.result()
        return ray.cluster_resources()

    def end(self, error: BaseException | None) -> None:
        """Shut the cluster down after a block that has ended with this error, unless it is lost."""
        self.is_unused.set()
        watch, ClusterWatch.current = ClusterWatch.current, None
        is_interrupt = isinstance(error, KeyboardInterrupt | SystemExit)
        exit_code = 0 if error is None else INTERRUPTED if is_interrupt else USER_ERROR
        if self.is_lost_at_start and self.is_alive():
            leave_with(exit_code)
            return
        if watch is not None:
            is_stuck = error is not None and watch.end_stopped()
            if is_stuck or watch.loss is not None:
                watch.abandon(exit_code)
                return
        limit_s = ENDING_S if error is None else FAILED_S
        try:
            if self.ident is not None:
                self.join(GIVING_UP_S if os.environ.get("RAY_ADDRESS") or is_interrupt else limit_s)
        finally:  # also after a second interrupt
            if self.is_alive() and error is not None and watch is not None:
                watch.abandon(exit_code)
            elif self.is_alive() and error is not None:
                leave_with(exit_code)  # it still starts, or asks an address that does not answer
            elif self.is_alive():
                _log.warning("Ray is still starting or ending: its end is that of this process")


@contextlib.contextmanager
def starting_cluster(num_cpus: int | None = None) -> Iterator[Ready]:
    """Start a Ray cluster in the background; yield a function that waits for its resources.

    A cluster that this process is part of, or that starts already, is used as it is. Otherwise it
    is the one at RAY_ADDRESS, or a new local one, which is shut down at the end. ClusterError in a
    process that has lost one.
    """
    if _Cluster.current is not None:
        yield _Cluster.current.ready
        return
    check_stays()
    if ray.is_initialized():
        yield ray.cluster_resources
        return
    check_address()
    started = _Cluster(num_cpus)
    failure: BaseException | None = None
    try:
        _Cluster.current = started
        started.start()
        yield started.ready
    except BaseException as error:
        failure = error
        raise
    finally:
        _Cluster.current = None
        started.end(failure)


@contextlib.contextmanager
def cluster(num_cpus: int | None = None) -> Iterator[Mapping[str, float]]:
    """Yield the resources of the cluster of `starting_cluster`, once it runs."""
    with starting_cluster(num_cpus) as ready:
        yield ready()


def _connect(num_cpus: int | None) -> None:
    """Start or find the cluster, without Ray's own messages; ClusterError if that fails."""
    address = os.environ.get("RAY_ADDRESS")
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    cpus = num_cpus or allotted_cpus()
    local = {} if address else {"include_dashboard": False, "num_cpus": cpus}
    if not address:
        keep_token_private()
    logging.getLogger(TOKEN_NOTICES).setLevel(logging.ERROR)
    logging.getLogger("ray._private.worker").addFilter(_is_news)
    handler = _PYTHON.PyOS_getsig(signal.SIGTERM)
    try:
        with _sessions_of_their_own(), _needed_processes_alone():
            ray.init(
                address=address or "local",
                job_config=SafePathJob(),
                log_to_driver=True,
                logging_level=logging.WARNING,
                configure_logging=False,
                **local,
            )
    except Exception as error:  # of this very class if a start takes too long
        raise ClusterError(
            f"expected a Ray cluster at {address or 'this machine'}, got {type(error).__name__} "
            f"({first_line(error)}): check RAY_ADDRESS and RAY_AUTH_MODE, or start again"
        ) from error
    finally:  # Ray's library has installed a handler that aborts the process
        _PYTHON.PyOS_setsig(signal.SIGTERM, handler)


@contextlib.contextmanager
def _sessions_of_their_own() -> Iterator[None]:
    """Let Ray start its processes in sessions of their own.

    A signal to the process group of a command, as from a terminal or a batch system, would end them
    before the command has taken its last checkpoint.
    """
    popen: Any = services.ConsolePopen
    services.ConsolePopen = functools.partial(popen, start_new_session=True)  # type: ignore[misc]
    try:
        yield
    finally:
        services.ConsolePopen = popen  # type: ignore[misc]


@contextlib.contextmanager
def _needed_processes_alone() -> Iterator[None]:
    """Let Ray leave out two processes, a third of the work of its start.

    The server of a dashboard that is off serves usage statistics alone, and the autoscaler has
    nothing to scale on this machine.
    """
    node: Any = Node
    before = node.start_api_server, node.start_monitor
    node.start_api_server = node.start_monitor = lambda self, **options: None
    try:
        yield
    finally:
        node.start_api_server, node.start_monitor = before


def _is_news(record: logging.LogRecord) -> bool:
    return NO_HANDLER not in record.getMessage()


def cluster_nodes() -> list[Mapping[str, float]]:
    """Return the resources of each living node of the cluster."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def free_resources() -> dict[str, float]:
    """Return the free CPUs and GPUs of the cluster."""
    return {k: v for k, v in ray.available_resources().items() if k in ("CPU", "GPU")}


def is_in_actor() -> bool:
    """Return whether this process is a Ray actor itself, such as a trial of a sweep."""
    return ray.is_initialized() and ray.get_runtime_context().get_actor_id() is not None
