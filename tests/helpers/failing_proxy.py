"""A proxy on this machine that fails a share of all requests to a server.

It answers 500, 503 or 429 instead of the server, or hangs up: before the request reaches the
server, or after the server has done what it asks. The draws are seeded.
"""

import http.client
import random
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

FAULTS = (500, 503, 429, "hang up before", "hang up after")


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
