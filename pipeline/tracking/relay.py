"""The relay of a run's outbox: one loop that sends the waiting entries, and a thread that runs it.

The loop reads from the cursor, sends, and writes the cursor. Whatever keeps the store from taking
an entry makes it wait and try the same entry again; only what the store will never take is put
aside. Sending twice changes nothing in the store, so that nothing is doubled where a crash comes
between sending and writing the cursor.
"""

import json
import logging
import math
import threading
import time
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Protocol

from filelock import FileLock

from pipeline.files.paths import error_line
from pipeline.runs.layout import OUTBOX_LOCK, REFUSED
from pipeline.tracking.outbox import Entry, entries, num_waiting, read_cursor, write_cursor

MAX_ENTRIES = 20  # of metrics in one request, which may have 1000 of them
LOCK_WAIT_S = 10.0
LINGER_S = 1.0  # between two looks into the outbox, so that rounds travel together
PAUSES_S = (1.0, 2.0, 4.0, 8.0, 16.0, 30.0)  # after failures in a row, the last for all others
NUM_TRIES = 3  # of one entry by `relay_all`
_log = logging.getLogger(__name__)


class Refusal(Exception):
    """An entry that the store will never take, for example because its file is gone."""


class Sink(Protocol):
    """The destination of entries. It is idempotent: to send an entry again changes nothing.

    `address`: of the store, without a password; the cursor counts for this store alone.
    """

    address: str

    def send(self, entries: Sequence[Entry]) -> None:
        """Write one entry, or several of metrics; Refusal if no time will change the answer."""
        ...


class Relay:
    """Sends the waiting entries of a run in order.

    `num_sent` have arrived so far. `num_failures`: tries in a row of which no entry arrived.
    """

    def __init__(self, run_dir: Path, sink: Sink) -> None:
        self.run_dir, self.sink = run_dir, sink
        self.num_sent = self.num_failures = 0

    def send_all(self) -> str | None:
        """Send until nothing waits; return None, or what keeps an entry from being taken for now.

        Only one process sends the entries of a run.
        """
        num_sent = self.num_sent
        try:
            with FileLock(self.run_dir / OUTBOX_LOCK, timeout=LOCK_WAIT_S):
                offset, store = read_cursor(self.run_dir)
                for batch in _batches(self.run_dir, offset if store == self.sink.address else 0):
                    self._send(batch)
        except Exception as error:
            self.num_failures = 1 if self.num_sent > num_sent else self.num_failures + 1
            return error_line(error)
        self.num_failures = 0
        return None

    def _send(self, batch: Sequence[tuple[Entry, int]]) -> None:
        """Send a batch and write the cursor; one of which something is refused goes one by one."""
        num_sent = len(batch)
        try:
            self.sink.send([entry for entry, _ in batch])
        except Refusal as refusal:
            if len(batch) > 1:
                for one in batch:
                    self._send([one])
                return
            self._put_aside(batch[0][0], error_line(refusal))
            num_sent = 0
        write_cursor(self.run_dir, batch[-1][1], self.sink.address)
        self.num_sent += num_sent  # last: whoever tries again asks whether it has grown

    def _put_aside(self, entry: Entry, reason: str) -> None:
        place = self.run_dir / REFUSED
        with place.open("a") as file:
            file.write(json.dumps({"reason": reason, **entry}) + "\n")
        _log.error("the store refuses an entry (%s): it is kept in %s", reason, place)


def _batches(run_dir: Path, offset: int) -> Iterator[list[tuple[Entry, int]]]:
    """Yield the entries that go together from a byte on, each with the byte after it."""
    for is_metrics, group in groupby(
        entries(run_dir, offset), lambda pair: pair[0]["kind"] == "metrics"
    ):
        together, size = [*group], MAX_ENTRIES if is_metrics else 1
        for first in range(0, len(together), size):
            yield together[first : first + size]


def relay_all(run_dir: Path, sink: Sink) -> tuple[int, str | None]:
    """Send all waiting entries; return how many arrived, and the error that came too often."""
    relay = Relay(run_dir, sink)
    while (problem := relay.send_all()) and relay.num_failures < NUM_TRIES:
        time.sleep(PAUSES_S[0])
    return relay.num_sent, problem


class RelayThread:
    """A thread that sends the entries of a run as they are appended, until `close`."""

    def __init__(self, run_dir: Path, sink: Sink) -> None:
        self._relay = Relay(run_dir, sink)
        self._is_closing = threading.Event()
        self._deadline = math.inf  # for the last tries
        self._thread = threading.Thread(
            target=self._run, name=f"outbox {run_dir.name}", daemon=True
        )
        self._thread.start()

    def close(self, timeout_s: float) -> int:
        """Send what waits, for at most `timeout_s`, and end; return how many entries still wait."""
        self._deadline = time.monotonic() + timeout_s
        self._is_closing.set()
        self._thread.join(timeout_s)  # if it waits for a server, it ends with that request
        return num_waiting(self._relay.run_dir)

    def _run(self) -> None:
        relay = self._relay
        while time.monotonic() < self._deadline:
            is_closing, problem = self._is_closing.is_set(), relay.send_all()
            if is_closing and problem is None:  # nothing was appended since
                return
            if relay.num_failures == 2:  # a first one may be two runs that write the same at once
                text = "run %s: its store takes no entries (%s): all is kept in %s meanwhile"
                _log.warning(text, relay.run_dir.name, problem, relay.run_dir)
            pause_s = PAUSES_S[min(relay.num_failures, len(PAUSES_S)) - 1] if problem else LINGER_S
            if is_closing:
                time.sleep(PAUSES_S[0])
            else:
                self._is_closing.wait(pause_s)
