"""What `chaos.py` runs: commands as a user types them, a tracking server, and a small disk."""

import contextlib
import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
from ray_desk import Missed, ray_processes

from pipeline.data.datasets import store_root
from pipeline.runs.layout import RECORD
from pipeline.tracking.outbox import read_points

COMMAND_S = 900.0  # for one command, however busy the machine is
DISK_BYTES = 64 * 2**20
NOT_INHERITED = ("RAY_ADDRESS", "SPIRE_FAULT")


class Desk:
    """One run: the folder and the environment in which its commands are typed."""

    def __init__(self, root: Path, uri: str | None = None, **env: str) -> None:
        self.root, self.uri = root, uri or f"sqlite:///{root.parent}/mlflow.db"
        self.env = {k: v for k, v in os.environ.items() if k not in NOT_INHERITED}
        self.env |= {"MLFLOW_TRACKING_URI": self.uri, "SPIRE_ROOT": str(root)}
        self.env |= {"SPIRE_DATA": str(store_root()), **env}
        self.err = root.parent / f"{root.name}.stderr"  # beside it: that disk may be full
        self._process: subprocess.Popen[str] | None = None

    @property
    def process(self) -> subprocess.Popen[str]:
        """The command that was typed last."""
        assert self._process is not None
        return self._process

    def type(self, *words: str) -> None:
        """Start a command."""
        command = [sys.executable, "-m", "pipeline", *words, "--json"]
        with self.err.open("a") as err:
            print(f"$ spire {' '.join(words)}", file=err, flush=True)
            self._process = subprocess.Popen(
                command, env=self.env, stdout=subprocess.PIPE, stderr=err, text=True
            )

    def end(self) -> tuple[int, dict[str, Any]]:
        """Wait for the command; return its exit code and the object that it printed, if any."""
        out, _ = self.process.communicate(timeout=COMMAND_S)
        return self.process.returncode, json.loads(out) if out.strip() else {}

    def kill(self) -> None:
        """End the last command, if there is one and it still runs, and wait."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    @property
    def run_dir(self) -> Path:
        return next(self.root.glob(f"runs/*/{RECORD}")).parent

    @property
    def num_rounds(self) -> int:
        """Rounds that have been recorded so far; -1 before there is a run."""
        if not list(self.root.glob(f"runs/*/{RECORD}")):
            return -1
        return sum("pretrain/loss" in metrics for _, metrics in read_points(self.run_dir))

    def actors(self, name: str) -> list[psutil.Process]:
        """Return the processes of the command's actors of a class, by process id."""
        return ray_processes(self.process.pid, name)

    def wait_until(self, is_true: Callable[[], bool]) -> None:
        """Wait; Missed if the command ends before, TimeoutError if it takes too long."""
        deadline = time.monotonic() + COMMAND_S
        while not is_true():
            if self.process.poll() is not None:
                raise Missed
            if time.monotonic() > deadline:
                raise TimeoutError(f"nothing happened in {COMMAND_S:g} s")
            time.sleep(0.02)


class Server:
    """A real tracking server with one address and one database, each time started anew."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.address = f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it and wait until it answers."""
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1"]
        command += ["--port", str(self.port), "--workers", "1"]
        command += ["--backend-store-uri", f"sqlite:///{self.folder}/server.db"]
        command += ["--artifacts-destination", str(self.folder / "artifacts")]
        env = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        with (self.folder / "log").open("a") as log:
            self.process = subprocess.Popen(
                command, env=env, cwd=self.folder, stdout=log, stderr=log, start_new_session=True
            )
        deadline = time.monotonic() + COMMAND_S
        while time.monotonic() < deadline and self.process.poll() is None:
            with (
                contextlib.suppress(OSError),
                urllib.request.urlopen(f"{self.address}/health", timeout=5),
            ):
                return
            time.sleep(0.2)
        raise RuntimeError((self.folder / "log").read_text())

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the server and all of its processes."""
        os.killpg(self.process.pid, number)

    def kill(self) -> None:
        """End it as a crash would."""
        if self.process.poll() is None:
            self.send(signal.SIGKILL)
            self.process.wait()


@contextlib.contextmanager
def small_disk(folder: Path, num_bytes: int = DISK_BYTES) -> Iterator[bool]:
    """Make a folder a small disk of its own, and yield True, where this process may mount."""
    folder.mkdir()
    libc = ctypes.CDLL(None, use_errno=True)
    options = b"size=%d" % num_bytes
    is_mounted = not libc.mount(b"tmpfs", os.fsencode(folder), b"tmpfs", 0, options)
    try:
        yield is_mounted
    finally:
        if is_mounted:
            libc.umount2(os.fsencode(folder), 2)  # MNT_DETACH: something may still be open there
