"""A real MLflow server on this machine, which tests may stop, kill and start again."""

import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from free_ports import free_ports


class Server:
    """One address and one database; `start` brings it up, each time anew."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        [self.port] = free_ports(1)
        self.address = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1"]
        command += ["--port", str(self.port), "--workers", "1"]
        command += ["--backend-store-uri", f"sqlite:///{self.folder}/server.db"]
        command += ["--artifacts-destination", str(self.folder / "artifacts")]
        environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        with (self.folder / "log").open("a") as log:
            self.process = subprocess.Popen(
                command,
                env=environment,
                cwd=self.folder,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        for _ in range(600):
            assert self.process.poll() is None, (self.folder / "log").read_text()
            try:
                with urllib.request.urlopen(f"{self.address}/health", timeout=5):
                    return
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                time.sleep(0.2)
        pytest.fail((self.folder / "log").read_text())

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the server and all of its processes."""
        assert self.process is not None
        os.killpg(self.process.pid, number)

    def end(self, number: signal.Signals = signal.SIGTERM) -> None:
        self.send(number)
        assert self.process is not None
        self.process.wait(timeout=120)
        self.process = None


@pytest.fixture(scope="session")
def any_server(tmp_path_factory: pytest.TempPathFactory, new_database: Path) -> Iterator[Server]:
    """A server that all tests share, which one of them may have ended."""
    server = Server(tmp_path_factory.mktemp("server"))
    shutil.copy(new_database, server.folder / "server.db")
    yield server
    if server.process is not None:
        server.end(signal.SIGKILL)


@pytest.fixture
def server(any_server: Server) -> Server:
    """The same, which is up and awake."""
    if any_server.process is None:
        any_server.start()
    any_server.send(signal.SIGCONT)
    return any_server
