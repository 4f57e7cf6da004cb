"""Delivery of one run's record behind a proxy that fails a share of all requests.

The run has 50 metrics with 6 points each, and 10 files. In front of a real `mlflow server` a proxy
on this machine answers 500, 503 or 429 instead of the server, or hangs up: before the request
reaches the server, or after the server has done what it asks. The draws are seeded. Of each share:
what is lost, what is doubled, and the seconds until the last entry is there. Writes one JSON.

    python benchmarks/flaky_delivery.py --out flaky_delivery.json
"""

import argparse
import http.client
import json
import os
import platform
import random
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from mlflow import MlflowClient

from pipeline.config.tracking import TrackingConfig
from pipeline.files.paths import git_revision
from pipeline.runs.record import make_run_dir
from pipeline.tracking.mlflow_session import first_contact
from pipeline.tracking.mlflow_sink import MlflowSink
from pipeline.tracking.outbox import Outbox, num_refused
from pipeline.tracking.relay import RelayThread

SHARES = (0.0, 0.05, 0.3, 0.6)
NUM_METRICS, NUM_STEPS, NUM_FILES = 50, 6, 10
FAULTS = (500, 503, 429, "hang up before", "hang up after")
LIMIT_S = 600.0


class Proxy(ThreadingHTTPServer):
    """Passes requests on to a port of this machine, and fails a share of them."""

    daemon_threads = True

    def __init__(self, port: int, share: float, seed: int) -> None:
        super().__init__(("127.0.0.1", 0), Passing)
        self.port, self.share, self.random = port, share, random.Random(seed)
        self.counts, self.lock = Counter[str](), threading.Lock()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def fault(self) -> int | str | None:
        """Draw whether, and how, the next request fails."""
        with self.lock:
            fault = self.random.choice(FAULTS) if self.random.random() < self.share else None
            self.counts["passed" if fault is None else str(fault)] += 1
            return fault

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Keep quiet about a client that has gone."""


class Passing(BaseHTTPRequestHandler):
    """Handles one request."""

    protocol_version = "HTTP/1.1"
    server: Proxy  # pyright: ignore[reportIncompatibleVariableOverride]

    def handle_any(self) -> None:
        body = self.body()
        fault = self.server.fault()
        if fault == "hang up before":
            self.close_connection = True
            return
        if isinstance(fault, int):
            self.answer(fault, {}, b"a gateway's page")
            return
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=60)
        own = ("connection", "transfer-encoding", "content-length")
        headers = {k: v for k, v in self.headers.items() if k.lower() not in own}
        connection.request(self.command, self.path, body, headers)
        response = connection.getresponse()
        content = response.read()
        connection.close()
        if fault == "hang up after":
            self.close_connection = True
            return
        self.answer(response.status, dict(response.getheaders()), content)

    def body(self) -> bytes:
        """Read the request's body, also one in chunks, as an empty file is sent."""
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        chunks = []
        while size := int(self.rfile.readline(), 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = handle_any

    def answer(self, status: int, headers: dict[str, str], content: bytes) -> None:
        left_out = {"transfer-encoding", "content-length", "connection", "content-encoding"}
        self.send_response(status)
        for name, value in headers.items():
            if name.lower() not in left_out:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing."""


@contextmanager
def server(folder: Path) -> Iterator[int]:
    """Run an MLflow server with a database in a folder, and yield its port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{folder}/server.db"]
    command += ["--artifacts-destination", str(folder / "artifacts")]
    environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            command, env=environment, stdout=log, stderr=log, start_new_session=True
        )
    try:
        until = time.monotonic() + 300
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                    break
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                if process.poll() is not None or time.monotonic() > until:
                    raise
                time.sleep(0.2)
        yield port
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)


def write_outbox(run_dir: Path) -> None:
    """Write what a run logs: its points, files in between, and its end."""
    outbox = Outbox(run_dir)
    (run_dir / "artifacts" / "files").mkdir(parents=True)
    outbox.append("params", params={"seed": "0"})
    for step in range(NUM_STEPS):
        points = {f"metric_{i}": step + i / NUM_METRICS for i in range(NUM_METRICS)}
        outbox.append_points([(step, points)])
        for i in range(step, NUM_FILES, NUM_STEPS):
            (run_dir / "artifacts" / "files" / f"{i}.txt").write_text(f"{i}\n" * 1000)
            outbox.append("file", file=f"files/{i}.txt")
    outbox.append("status", status="FINISHED")


def deliver(address: str, root: Path) -> tuple[str, dict[str, Any]]:
    """Deliver the record of a new run through an address; return its id, and how that went."""
    config = TrackingConfig(root=str(root), uri=address)
    plain = MlflowClient(os.environ["DIRECT"])
    run_id = plain.create_run(plain.create_experiment(root.name)).info.run_id
    run_dir = make_run_dir(config, run_id, run_id, address)
    write_outbox(run_dir)
    # Made without a request: the first contact is not the subject here.
    with first_contact(address) as client:
        sink = MlflowSink(client, run_id, run_dir)
    began = time.monotonic()
    num_left = RelayThread(run_dir, sink).close(LIMIT_S)
    seconds = time.monotonic() - began
    return run_id, {"seconds": seconds, "waiting": num_left, "refused": num_refused(run_dir)}


def compare(folder: Path, run_id: str) -> dict[str, Any]:
    """Compare what the server has of a run with what the run logged."""
    with sqlite3.connect(folder / "server.db") as database:
        query = "SELECT key, step, value FROM metrics WHERE run_uuid = ?"
        rows = Counter(database.execute(query, (run_id,)).fetchall())
    steps, metrics = range(NUM_STEPS), range(NUM_METRICS)
    wanted = {(f"metric_{i}", step, step + i / NUM_METRICS) for step in steps for i in metrics}
    client = MlflowClient(os.environ["DIRECT"])
    files = {a.path for a in client.list_artifacts(run_id, "files")}
    sent = {f"files/{i}.txt" for i in range(NUM_FILES)}
    return {
        "points_lost": len(wanted - rows.keys()),
        "points_doubled": sum(rows.values()) - len(rows),
        "points_foreign": len(rows.keys() - wanted),
        "files_lost": len(sent - files),
        "status": client.get_run(run_id).info.status,
    }


def measure(share: float, seed: int, port: int, folder: Path) -> dict[str, Any]:
    """Deliver one run behind a proxy that fails a share of the requests."""
    proxy = Proxy(port, share, seed)
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    try:
        run_id, delivery = deliver(proxy.address, folder / f"{share}-{seed}")
    finally:
        proxy.shutdown()
        proxy.server_close()
    delivery |= {"requests": dict(sorted(proxy.counts.items())), "load": os.getloadavg()[0]}
    return {"share": share, "seed": seed, **delivery, **compare(folder, run_id)}


def is_delivered_once(result: dict[str, Any]) -> bool:
    """Return whether the server has all of a run's record, and nothing twice."""
    lost = (result["points_lost"], result["files_lost"])
    more = (result["points_doubled"], result["points_foreign"])
    return lost == more == (0, 0) and result["status"] == "FINISHED"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--shares", type=float, nargs="+", default=SHARES)
    parser.add_argument("--seeds", type=int, default=3, help="deliveries of each share")
    args = parser.parse_args()
    results = []
    with tempfile.TemporaryDirectory() as name, server(Path(name)) as port:
        os.environ["DIRECT"] = f"http://127.0.0.1:{port}"
        for seed in range(args.seeds):
            for share in args.shares:
                results.append(measure(share, seed, port, Path(name)))
                print(json.dumps(results[-1]), flush=True)
    is_whole = all(map(is_delivered_once, results))
    if args.out is not None:
        machine = {"system": platform.platform(), "cores": os.cpu_count()}
        about = {"command": " ".join(sys.argv), "commit": git_revision(), **machine}
        values = {**about, "all_delivered_once": is_whole, "results": results}
        args.out.write_text(json.dumps(values, indent=1) + "\n")
    return 0 if is_whole else 1


if __name__ == "__main__":
    sys.exit(main())
