"""Downloads of single files, each in bounded time."""

import threading
import time
import urllib.request
from concurrent.futures import Future
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

from spire_core.errors import DataError

CONNECT_S = 5.0  # until a server answers, its name look-up included
STALL_S = 10.0  # without a byte from a server that has answered
DOWNLOAD_S = 900.0  # for one file or one package
CHUNK_BYTES = 2**16


def download_file(url: str, target: Path) -> None:
    """Write the file at a URL to `target`; DataError unless the server sends all of it in time."""
    deadline, num_bytes = time.monotonic() + DOWNLOAD_S, 0
    with _answer(url) as answer, target.open("wb") as file:
        while chunk := answer.read1(CHUNK_BYTES):
            num_bytes += file.write(chunk)
            if time.monotonic() > deadline:
                raise DataError(f"{target.name} took over {DOWNLOAD_S:g} s")
        promised = answer.headers.get("Content-Length", "")
        if promised.isdecimal() and num_bytes != int(promised):
            raise DataError(f"{num_bytes} of {promised} bytes of {target.name} came")


def _answer(url: str) -> Any:
    """Return the open response to a URL; DataError without one in time.

    A thread asks, because a name look-up obeys no time-out.
    """
    answer: Future[Any] = Future()

    def ask() -> None:
        try:
            answer.set_result(urllib.request.urlopen(url, timeout=STALL_S))
        except HTTPError as error:
            error.close()
            answer.set_exception(error)
        except Exception as error:
            answer.set_exception(error)

    threading.Thread(target=ask, daemon=True).start()
    try:
        return answer.result(CONNECT_S)
    except TimeoutError as error:
        raise DataError(f"no answer in {CONNECT_S:g} s") from error
