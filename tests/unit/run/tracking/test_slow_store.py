"""A server that takes its time: files are waited for, numbers are not."""

import json
import os
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from pipeline.tracking import mlflow_errors, mlflow_settings, relay
from pipeline.tracking.mlflow_settings import QUIET, TIMEOUT, quiet_mlflow, soon, time_for
from pipeline.tracking.mlflow_sink import MlflowSink
from pipeline.tracking.outbox import Outbox, num_waiting
from pipeline.tracking.relay import relay_all

RUN = "0" * 32
SHORT_S, SLOW_S = 1, 1.5  # MLflow counts a time-out in whole seconds


class Slow(BaseHTTPRequestHandler):
    """Answers as MLflow's server does that passes files on: a while after it has them."""

    slow: set[str]
    taken: list[str]

    def do_GET(self) -> None:
        host = self.headers["Host"]
        place = f"mlflow-artifacts://{host}/0/{RUN}/artifacts"
        info = {"run_id": RUN, "run_uuid": RUN, "experiment_id": "0", "status": "RUNNING"}
        info |= {"artifact_uri": place, "lifecycle_stage": "active"}
        self.answer({"run": {"info": info, "data": {}}})

    def do_PUT(self) -> None:
        self.take("PUT")

    def do_POST(self) -> None:
        self.take("POST")

    def take(self, verb: str) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        if verb in self.slow:
            time.sleep(SLOW_S)
        self.taken.append(verb)
        self.answer({})

    def answer(self, values: dict[str, Any]) -> None:
        text = json.dumps(values).encode()
        try:
            self.send_response(200)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)
        except OSError:  # nobody waits for it any more
            pass

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, type[Slow]]]:
    monkeypatch.setattr(mlflow_errors, "PAUSES_S", ())
    monkeypatch.setattr(relay, "SLOW_S", 0.1)
    monkeypatch.setitem(QUIET, TIMEOUT, str(SHORT_S))
    monkeypatch.setattr(mlflow_settings, "_lent", {})
    for key in QUIET:
        monkeypatch.delenv(key, raising=False)
    quiet_mlflow()
    handler = type("Handler", (Slow,), {"slow": set(), "taken": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http.server_port}", handler
        http.shutdown()
    for key in QUIET:
        os.environ.pop(key, None)


def sink_of(uri: str, run_dir: Path) -> MlflowSink:
    return MlflowSink(MlflowClient(uri), RUN, run_dir, is_new=True)


def log_file(run_dir: Path) -> None:
    (run_dir / "artifacts").mkdir()
    (run_dir / "artifacts" / "a.txt").write_text("x")
    Outbox(run_dir).append("file", file="a.txt")


def test_a_file_that_is_acknowledged_late_arrives_once(
    server: tuple[str, type[Slow]], tmp_path: Path
) -> None:
    uri, handler = server
    handler.slow.add("PUT")
    log_file(tmp_path)
    assert relay_all(tmp_path, sink_of(uri, tmp_path)) == (1, None)
    assert (handler.taken, num_waiting(tmp_path)) == (["PUT"], 0)
    assert os.environ[TIMEOUT] == str(SHORT_S)


def test_a_time_out_of_the_user_stays(
    server: tuple[str, type[Slow]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri, handler = server
    handler.slow.add("PUT")
    monkeypatch.setitem(QUIET, TIMEOUT, "20")  # so that the short one is the user's
    log_file(tmp_path)
    num_sent, problem = relay_all(tmp_path, sink_of(uri, tmp_path))
    assert (num_sent, num_waiting(tmp_path)) == (0, 1)
    assert "failed with" in str(problem)


def test_numbers_are_not_waited_for(server: tuple[str, type[Slow]], tmp_path: Path) -> None:
    uri, handler = server
    handler.slow.add("POST")
    Outbox(tmp_path).append_points([(0, {"a": 1.0})])
    num_sent, problem = relay_all(tmp_path, sink_of(uri, tmp_path))
    assert (num_sent, num_waiting(tmp_path)) == (0, 1)
    assert "failed with" in str(problem)


def test_a_larger_file_has_longer(server: object, tmp_path: Path) -> None:
    with (tmp_path / "large").open("wb") as file:
        file.truncate(300 * mlflow_settings.BYTES_PER_S)
    (tmp_path / "small").write_text("x")
    for path in (tmp_path, tmp_path / "large"):
        with time_for(path):
            assert os.environ[TIMEOUT] == str(mlflow_settings.FILE_S + 300)
    with time_for(tmp_path / "small"):
        assert os.environ[TIMEOUT] == str(mlflow_settings.FILE_S)


def test_blocks_of_two_threads_leave_nothing(server: object, tmp_path: Path) -> None:
    """The block that began first ends first."""
    first, second = time_for(tmp_path), soon()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    second.__exit__(None, None, None)
    assert os.environ[TIMEOUT] == str(SHORT_S)
