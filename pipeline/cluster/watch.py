"""Whether Ray still lives: its processes on this machine, its control store and this node.

Ray itself waits for a process that stands still for ever, and ends this process without a sentence
a while after it has lost one. `ClusterWatch` notices both before.
"""

import contextlib
import os
import select
import sys
import threading
from collections.abc import Callable, Collection, Container, Iterator
from typing import Any

import psutil
import ray

from pipeline.cluster.leaving import leave, leave_with
from spire_core.errors import ClusterError

TICK_S = 1.0
STARTING_TICK_S = 0.2  # between two looks at processes that start
PROBE_S = 5.0  # between two questions to the control store
SILENT_TICKS = 60  # without an answer, the control store counts as lost
ENDING_S = 45.0  # for this process to end by itself after a loss; Ray's own end comes after 60 s
USER_ERROR, INTERRUPTED = 2, 130  # the command's exit codes
REMEDY = "start again; spire resume goes on from the last checkpoint"
DEAD_NODE = "expected this machine's node of Ray to answer, got a dead node"
OWN_PROCESSES = {"gcs_server": "control store (gcs_server)", "raylet": "node process (raylet)"}


class ClusterWatch:
    """Notices the loss of the cluster that this process has connected to.

    Time is counted in ticks of this process. A pause of the whole process tree, such as Ctrl-Z or
    a closed laptop, is therefore one tick.
    """

    current: "ClusterWatch | None" = None

    def __init__(self, is_unused: threading.Event) -> None:
        """Watch until the cluster is unused. Ray must have connected."""
        self.is_unused = is_unused
        self.loss: ClusterError | None = None
        self.is_noticed = False  # the loss has been raised
        self.node_id = ray.get_runtime_context().get_node_id()
        self.own = dict(_own_processes())
        self._silent_ticks = 0
        self._asks, self._answered = threading.Event(), threading.Event()

    def run(self) -> None:
        """Return when the cluster is unused or lost; end this process if it then does nothing."""
        threading.Thread(target=self._await_ends, name="ray-ends", daemon=True).start()
        probe = threading.Thread(target=self._probe, name="ray-probe", daemon=True)
        probe.start()
        while self.loss is None and not self.is_unused.wait(TICK_S):
            self._silent_ticks += 1
            if self._silent_ticks >= SILENT_TICKS:
                self._lose(f"expected Ray's control store to answer, got none for {SILENT_TICKS} s")
        if self.loss is None:
            self._asks.set()
            probe.join(TICK_S)  # its question would start Ray again after the shutdown
        else:
            self.is_unused.wait(ENDING_S)
            if not self.is_noticed and not self.is_unused.is_set():
                self._end_process()

    def _await_ends(self) -> None:
        """Wait for the end of a process of Ray that this one has started."""
        if not hasattr(os, "pidfd_open"):  # not Linux: the control store's silence tells
            return
        poll, names = select.poll(), dict[int, str]()
        for pid, name in self.own.items():
            with contextlib.suppress(OSError):
                names[file := os.pidfd_open(pid)] = name
                poll.register(file, select.POLLIN)
        try:
            ended = poll.poll() if names else []
            if ended and not self.is_unused.is_set():
                what = OWN_PROCESSES[names[ended[0][0]]]
                self._lose(f"expected Ray's {what} to run, got its end")
        finally:
            for file in names:
                os.close(file)

    def _probe(self) -> None:
        """Ask the control store for the nodes, again and again; a question may never return."""
        while self.loss is None and not self.is_unused.is_set():
            self._asks.clear()
            with contextlib.suppress(Exception):  # no answer
                is_alive = _is_alive(self.node_id)
                self._silent_ticks = 0
                if not is_alive and not self.is_unused.is_set():
                    self._lose(DEAD_NODE)
                self._answered.set()
            self._asks.wait(PROBE_S)

    def ask_now(self) -> None:
        """Find out whether the cluster is lost, as the loss of an actor lets suspect."""
        self._answered.clear()
        self._asks.set()
        self._answered.wait(PROBE_S)

    def _lose(self, sentence: str) -> None:
        if self.loss is None:
            self.loss = ClusterError(f"{sentence}: {REMEDY}")

    def _end_process(self) -> None:
        """End this process, whose main thread is caught in Ray's library."""
        print(f"spire: {self.loss}", file=sys.stderr, flush=True)
        self.abandon(USER_ERROR)
        leave()

    def abandon(self, exit_code: int) -> None:
        """End Ray's processes without asking them, and this process later with an exit code.

        Linux ends the control store and the node process together with this one. Ended before, they
        would take this process with them, without its exit code.
        """
        leave_with(exit_code)
        for process in _below(self.own):
            with contextlib.suppress(psutil.Error):
                process.kill()

    def end_stopped(self) -> bool:
        """End actors that stand still, which hear no request to end.

        Returns whether Ray's own processes stand still.
        """
        for process in _below(self.own):
            with contextlib.suppress(psutil.Error):
                if process.status() == psutil.STATUS_STOPPED:
                    process.kill()
        return any(map(_stands_still, self.own))


def _below(own: Container[int]) -> Iterator[psutil.Process]:
    """Yield the processes that Ray's own ones have started; they share sessions."""
    for process in psutil.process_iter():
        with contextlib.suppress(OSError, psutil.Error):
            if process.pid not in own and os.getsid(process.pid) in own:
                yield process


def _own_processes() -> Iterator[tuple[int, str]]:
    """Yield the ids and names of Ray's own processes below this one."""
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.Error):  # another command, such as git, has just ended
            if (name := child.name()) in OWN_PROCESSES:
                yield child.pid, name


def _stands_still(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_STOPPED
    except psutil.Error:  # it has ended
        return False


@contextlib.contextmanager
def watching_start(lose: Callable[[ClusterError], None]) -> Iterator[None]:
    """Tell the loss of a process of Ray that this one starts in the block.

    Ray's library waits for minutes for a process that has ended. `lose` is called at most once,
    from another thread and within the block, after what those processes have started is ended.
    """
    is_over, seen = threading.Event(), dict[psutil.Process, str]()

    def watch() -> None:
        while not is_over.wait(STARTING_TICK_S):
            for process in psutil.Process().children():
                with contextlib.suppress(psutil.Error):
                    if process.name() in OWN_PROCESSES:
                        seen[process] = OWN_PROCESSES[process.name()]
            ended = [name for process, name in seen.items() if _has_ended(process)]
            if ended:
                _end_started(seen)
                lose(ClusterError(f"expected Ray's {ended[0]} to start, got its end: {REMEDY}"))
                return

    watcher = threading.Thread(target=watch, name="ray-starting", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        is_over.set()
        watcher.join()


def _end_started(own: Collection[psutil.Process]) -> None:
    """End what these processes of Ray have started; they stand still, and start no others."""
    for process in own:
        with contextlib.suppress(psutil.Error):
            process.suspend()
    for started in _below([process.pid for process in own]):
        with contextlib.suppress(psutil.Error):
            started.kill()


def _has_ended(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def check_alive() -> None:
    """Raise ClusterError if the cluster that this process watches is lost."""
    watch = ClusterWatch.current
    if watch is not None and watch.loss is not None:
        watch.is_noticed = True
        raise watch.loss


def check_now() -> None:
    """Do as `check_alive`, and ask the control store before."""
    if ClusterWatch.current is not None:
        ClusterWatch.current.ask_now()
    check_alive()


def check_node() -> None:
    """Raise ClusterError if this process's node of Ray is dead, also where nothing watches it."""
    if not _is_alive(ray.get_runtime_context().get_node_id()):
        raise ClusterError(f"{DEAD_NODE}: {REMEDY}")


def _is_alive(node_id: str) -> bool:
    return any(node["Alive"] for node in ray.nodes() if node["NodeID"] == node_id)


def is_lost() -> bool:
    """Return whether the cluster that this process watches is lost."""
    watch = ClusterWatch.current
    return watch is not None and watch.loss is not None


def end_actor(actor: Any) -> None:
    """End an actor's process, unless the cluster is lost: Ray would wait, or end this process."""
    if not is_lost():
        ray.kill(actor)
