"""Commands as processes that do not import torch, Ray and MLflow anew, which is most of a start.

    process = WarmPopen([sys.executable, "-m", "pipeline", "run", "smoke"], cwd=..., env=...)
    done = run_warm([sys.executable, "-c", script], capture_output=True, text=True)

One process of the session, the hearth, imports these packages when the first command is typed, and
forks for each command. The fork takes over what a new process would have: arguments, folder,
environment, open files, session and handlers of signals. Then it runs the module or the script as
`__main__`, to its own end.

A test that is about the start of Python, about what is imported, or about a variable that a library
reads while it is imported needs a new process of its own. Here it is an error to change a variable
of `READ_EARLY`, and to fork beside threads of the hearth, which the fork would lack.
"""

import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import types
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

HEARTH = "SPIRE_TEST_HEARTH"  # the variable with the path of its socket
READ_EARLY = ("PYTHON", "LD_", "OMP_", "MKL_", "OPENBLAS_", "MPL", "JE_ARROW_")  # begin with these
PACKAGES = ("pipeline.cluster.session", "pipeline.experiment.run", "sweeps.execution.tune")
PACKAGES += ("mlflow.store.tracking.sqlalchemy_store", "scipy.optimize", "matplotlib.figure")
PACKAGES += ("matplotlib.backends.backend_agg",)
MOST_BYTES = 2**17  # of a request
NO_THREAD = {"JE_ARROW_MALLOC_CONF": "background_thread:false"}  # of pyarrow's memory

# --- the test's side ------------------------------------------------------------------------------


class WarmPopen(subprocess.Popen[Any]):
    """`subprocess.Popen` of `[sys.executable, "-m" or "-c", ...]` by a fork of the hearth."""

    def _execute_child(self, args: Sequence[str], *options: Any) -> None:
        """Take the place of Popen's own method, with its arguments."""
        cwd, env, fds, begins_session = options[4], options[5], options[9:15], options[20]
        assert args[0] == sys.executable, args
        env = dict(os.environ if env is None else env)
        check_variables(env)
        request = Request(list(args[1:]), str(cwd or os.getcwd()), env, bool(begins_session))
        own = [fd if fd != -1 else i for i, fd in enumerate((fds[0], fds[3], fds[5]))]
        with ExitStack() as if_it_fails:
            self._answer = if_it_fails.enter_context(new_socket())
            self._answer.connect(os.environ[HEARTH])
            socket.send_fds(self._answer, [json.dumps(request).encode()], own)
            self._close_pipe_fds(*fds)
            answer = self._answer.recv(MOST_BYTES).decode()
            if not answer.isdecimal():
                raise RuntimeError(answer or "the hearth has ended")
            if_it_fails.pop_all()
        self.pid, self._child_created = int(answer), True

    def _internal_poll(self, _deadstate: int | None = None) -> int | None:
        """Do as Popen's own method, whose further arguments differ between versions of Python."""
        if self.returncode is None and self._waitpid_lock.acquire(False):
            try:
                pid, status = self._try_wait(os.WNOHANG) if self.returncode is None else (0, 0)
                if pid == self.pid:
                    self._handle_exitstatus(status)
            finally:
                self._waitpid_lock.release()
        return self.returncode

    def _try_wait(self, wait_flags: int) -> tuple[int, int]:
        """Do as os.waitpid: the hearth tells the status once the process has ended."""
        limit_s = 0 if wait_flags & os.WNOHANG else None
        if not select.select([self._answer], [], [], limit_s)[0]:
            return 0, 0
        with closing(self._answer):
            status = self._answer.recv(MOST_BYTES)
        return self.pid, int(status or signal.SIGKILL)  # nothing comes of a hearth that has ended


def check_variables(env: Mapping[str, str]) -> None:
    """Raise ValueError if an environment has another value of a variable that is read early."""
    for name in {*env, *os.environ}:
        if name.startswith(READ_EARLY) and env.get(name) != os.environ.get(name):
            raise ValueError(f"expected a new process for another value of {name}")


def run_warm(args: Sequence[str], *, timeout: float | None = None, **options: Any) -> Any:
    """Do as `subprocess.run`, with the options of Popen and `capture_output`."""
    if options.pop("capture_output", False):
        options |= {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with WarmPopen(args, **options) as process:
        try:
            out, err = process.communicate(timeout=timeout)
        except BaseException:
            process.kill()
            raise
    return subprocess.CompletedProcess(args, process.returncode, out, err)


def new_socket() -> socket.socket:
    """A socket on which a message arrives as one."""
    return socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)


@contextmanager
def hearth(folder: Path) -> Iterator[None]:
    """Keep a hearth for this process and those below it; it ends when this process does."""
    path = folder / "hearth"
    with new_socket() as listener:
        listener.bind(str(path))
        listener.listen(64)
        command = [sys.executable, __file__, str(listener.fileno())]
        pipe, keep = subprocess.PIPE, (listener.fileno(),)
        env = os.environ | NO_THREAD
        process = subprocess.Popen(
            command, stdin=pipe, pass_fds=keep, env=env, start_new_session=True
        )
    os.environ[HEARTH] = str(path)
    try:
        yield
    finally:
        del os.environ[HEARTH]
        process.communicate()


# --- the hearth -----------------------------------------------------------------------------------


class Request(NamedTuple):
    """What a new process is to have, beside three open files."""

    args: list[str]
    cwd: str
    env: dict[str, str]
    begins_session: bool


class Hearth:
    """A process of one thread that forks for each request."""

    def __init__(self, listener: socket.socket) -> None:
        self.listener, self.poll = listener, select.poll()
        self.running: dict[int, tuple[int, socket.socket]] = {}  # by a descriptor that tells ends
        for waits_for in (sys.stdin.fileno(), listener.fileno()):
            self.poll.register(waits_for, select.POLLIN)

    def serve(self) -> Request:
        """Serve until stdin ends; return in the forks alone, with what was asked for."""
        while True:
            for ready, _ in self.poll.poll():
                if ready == sys.stdin.fileno():
                    sys.exit()
                if ready in self.running:
                    self._tell_end(ready)
                elif request := self._fork():
                    return request

    def _fork(self) -> Request | None:
        answer, _ = self.listener.accept()
        raw, fds, *_ = socket.recv_fds(answer, MOST_BYTES, 3)
        problem = import_packages()
        pid = None if problem else os.fork()
        if pid == 0:
            request = Request(*json.loads(raw))
            self._close(answer)
            take_over(request, fds)
            return request
        for fd in fds:
            os.close(fd)
        _tell(answer, problem if pid is None else pid)
        if pid is None:
            answer.close()
            return None
        end = os.pidfd_open(pid)
        self.running[end] = pid, answer
        self.poll.register(end, select.POLLIN)
        return None

    def _tell_end(self, end: int) -> None:
        self.poll.unregister(end)
        os.close(end)
        pid, answer = self.running.pop(end)
        with closing(answer):
            _tell(answer, os.waitpid(pid, 0)[1])

    def _close(self, answer: socket.socket) -> None:
        """Close what a new process would not have."""
        for end, (_, other) in self.running.items():
            os.close(end)
            other.close()
        answer.close()
        self.listener.close()


def _tell(answer: socket.socket, what: int | str) -> None:
    with suppress(OSError):  # nobody waits for it any more
        answer.send(str(what).encode())


def import_packages() -> str:
    """Import what commands import; return what stands against a fork, if anything does."""
    if "mlflow" not in sys.modules:
        from pipeline.tracking.mlflow_settings import quiet_mlflow

        quiet_mlflow()
        for name in PACKAGES:
            importlib.import_module(name)
        if not (pid := os.fork()):  # OpenBLAS ends its threads at a fork, until it needs some
            os._exit(0)
        os.waitpid(pid, 0)
        gc.freeze()  # what is imported takes a second to collect at each end, and stays shared
    num_threads = len(os.listdir("/proc/self/task"))
    return "" if num_threads == 1 else f"expected one thread before a fork, got {num_threads}"


def take_over(request: Request, fds: Sequence[int]) -> None:
    """Give this fork what a new process would have."""
    for number, fd in enumerate(fds):
        os.dup2(fd, number)
        os.close(fd)
    if request.begins_session:
        os.setsid()
    os.chdir(request.cwd)
    os.environ.clear()
    os.environ.update(request.env)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def run_main(args: Sequence[str]) -> None:
    """Run `-c script ...` or `-m module ...` as Python does."""
    kind, what, *words = args
    main = sys.modules["__main__"] = types.ModuleType("__main__")
    if kind == "-c":
        sys.path[0], sys.argv = "", ["-c", *words]
        exec(compile(what, "<string>", "exec"), main.__dict__)
    else:
        assert kind == "-m", args
        sys.path[0], sys.argv = os.getcwd(), [what, *words]
        runpy._run_module_as_main(what)


if __name__ == "__main__":
    run_main(Hearth(socket.socket(fileno=int(sys.argv[1]))).serve().args)
