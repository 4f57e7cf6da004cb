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
from pathlib import Path
from typing import Protocol

from filelock import FileLock, Timeout

from pipeline.files.paths import error_line
from pipeline.runs.layout import OUTBOX_LOCK, REFUSED
from pipeline.tracking.outbox import Entry, entries, num_waiting, read_cursor, write_cursor
from spire_core.errors import BusyError

MAX_METRICS = 1000  # in one request; MLflow's limit
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
    """Sends the waiting entries of a run in order; `num_sent` have arrived so far."""

    def __init__(self, run_dir: Path, sink: Sink) -> None:
        self.run_dir, self.sink, self.num_sent = run_dir, sink, 0

    def send_all(self) -> None:
        """Send until nothing waits; raises what keeps an entry from being taken for now.

        BusyError if another process stays at it: only one sends the entries of a run.
        """
        lock = FileLock(self.run_dir / OUTBOX_LOCK)
        try:
            held = lock.acquire(timeout=LOCK_WAIT_S)
        except Timeout:
            raise BusyError("another process is delivering them") from None
        with held:
            offset, store = read_cursor(self.run_dir)
            for batch in self._batches(offset if store == self.sink.address else 0):
                self._send(batch)

    def _batches(self, offset: int) -> Iterator[list[tuple[Entry, int]]]:
        """Yield the entries that go together from a byte on, each with the byte after it."""
        batch: list[tuple[Entry, int]] = []
        num_metrics = 0
        for entry, after in entries(self.run_dir, offset):
            num_metrics += len(entry.get("metrics", ()))
            if batch and (entry["kind"] != "metrics" or num_metrics > MAX_METRICS):
                yield batch
                batch, num_metrics = [], len(entry.get("metrics", ()))
            batch.append((entry, after))
            if entry["kind"] != "metrics":
                yield batch
                batch = []
        if batch:
            yield batch

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
        told = " ".join(str(entry[key]) for key in ("kind", "file", "key", "step") if key in entry)
        _log.error("the store refuses %s (%s): it is kept in %s", told, reason, place)


def relay_all(run_dir: Path, sink: Sink) -> tuple[int, str | None]:
    """Send all waiting entries; return how many arrived, and the error that came too often."""
    relay, num_failures = Relay(run_dir, sink), 0
    while True:
        num_sent = relay.num_sent
        try:
            relay.send_all()
            return relay.num_sent, None
        except Exception as error:
            num_failures = 1 if relay.num_sent > num_sent else num_failures + 1
            if num_failures == NUM_TRIES:
                return relay.num_sent, error_line(error)
        time.sleep(PAUSES_S[0])


class RelayThread:
    """A thread that sends the entries of a run as they are appended, until `close`."""

    def __init__(self, run_dir: Path, sink: Sink) -> None:
        self.run_dir = run_dir
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
        return num_waiting(self.run_dir)

    def _run(self) -> None:
        num_failures, name = 0, self.run_dir.name
        while time.monotonic() < self._deadline:
            is_closing, num_sent = self._is_closing.is_set(), self._relay.num_sent
            try:
                self._relay.send_all()
                if is_closing:  # nothing was appended since
                    return
                if num_failures > 1:
                    _log.info("run %s: its store takes entries again", name)
                num_failures, pause_s = 0, LINGER_S
            except Exception as error:
                num_failures = 1 if self._relay.num_sent > num_sent else num_failures + 1
                if num_failures == 2:  # a first one may be two runs that write the same at once
                    text = "run %s: its store takes no entries (%s): all is kept in %s meanwhile"
                    _log.warning(text, name, error_line(error), self.run_dir)
                pause_s = PAUSES_S[min(num_failures, len(PAUSES_S)) - 1]
            if is_closing:
                time.sleep(PAUSES_S[0])
            else:
                self._is_closing.wait(pause_s)
