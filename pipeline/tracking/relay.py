"""The relay of a run's outbox: one loop that sends the waiting entries, and a thread that runs it.

The loop reads from the cursor, sends, writes the cursor, and waits for more. Whatever keeps the
store from taking an entry makes it wait and try the same entry again; only what the store will
never take is put aside. Sending twice changes nothing in the store, so that nothing is doubled
where a crash comes between sending and writing the cursor.
"""

import contextlib
import json
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

from pipeline.files.atomic import try_lock
from pipeline.files.paths import error_line
from pipeline.runs.layout import OUTBOX_LOCK, REFUSED
from pipeline.tracking.outbox import (
    Entry,
    lines,
    num_waiting,
    parse_entry,
    read_cursor,
    write_cursor,
)
from spire_core.errors import BusyError

MAX_METRICS = 1000  # in one request; MLflow's limit
LOCK_WAIT_S, LOCK_PAUSE_S = 10.0, 0.1
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
        """Send until nothing waits; raises what keeps an entry from being taken for now."""
        with sole_relay(self.run_dir):
            offset, store = read_cursor(self.run_dir)
            batch = self._batch_at(offset if store == self.sink.address else 0)
            while batch:
                self._send(batch)
                batch = self._batch_at(batch[-1][1])

    def _batch_at(self, offset: int) -> list[tuple[Entry | None, int]]:
        """Return the entries that go together from a byte on, each with the byte after it."""
        batch: list[tuple[Entry | None, int]] = []
        num_metrics = 0
        for line in lines(self.run_dir, offset):
            entry, offset = parse_entry(line), offset + len(line)
            is_points = entry is not None and entry["kind"] == "metrics"
            num_metrics += len(entry["metrics"]) if entry is not None and is_points else 0
            if batch and (not is_points or num_metrics > MAX_METRICS):
                break
            batch.append((entry, offset))
            if not is_points:
                break
        return batch

    def _send(self, batch: Sequence[tuple[Entry | None, int]]) -> None:
        """Send a batch and write the cursor; one of which something is refused goes one by one."""
        entries = [entry for entry, _ in batch if entry is not None]
        num_sent = len(entries)
        try:
            if entries:
                self.sink.send(entries)
        except Refusal as refusal:
            if len(batch) > 1:
                for one in batch:
                    self._send([one])
                return
            self._put_aside(entries[0], error_line(refusal))
            num_sent = 0
        write_cursor(self.run_dir, batch[-1][1], self.sink.address)
        self.num_sent += num_sent  # last: whoever tries again asks whether it has grown

    def _put_aside(self, entry: Entry, reason: str) -> None:
        place = self.run_dir / REFUSED
        with place.open("a") as file:
            file.write(json.dumps({"reason": reason, **entry}) + "\n")
        name = entry.get("file") or entry.get("key") or ", ".join(entry.get("metrics", ()))
        at = f" of step {entry['step']}" if "step" in entry else ""
        label = f"{entry['kind']} {name}".strip()
        _log.error("the store refuses %s%s (%s): it is kept in %s", label, at, reason, place)


@contextlib.contextmanager
def sole_relay(run_dir: Path) -> Iterator[None]:
    """Be the only process that sends the entries of a run; BusyError if another one stays at it."""
    deadline = time.monotonic() + LOCK_WAIT_S
    with (run_dir / OUTBOX_LOCK).open("w") as file:
        while not try_lock(file):
            if time.monotonic() > deadline:
                raise BusyError("another process is delivering them")
            time.sleep(LOCK_PAUSE_S)
        yield


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
        self._changed = threading.Condition()
        self._num_appends = 1  # notifications so far; the first stands for what is there already
        self._num_handled = 0  # of these, how many came before the outbox was last empty
        self._is_flushing = self._is_closed = False
        self._thread = threading.Thread(
            target=self._run, name=f"outbox {run_dir.name}", daemon=True
        )
        self._thread.start()

    def notify(self) -> None:
        """Announce that entries were appended."""
        with self._changed:
            self._num_appends += 1
            self._changed.notify_all()

    def flush(self, timeout_s: float) -> int:
        """Wait until the store has all entries, at most `timeout_s`; return how many still wait."""
        with self._changed:
            num_appends, self._is_flushing = self._num_appends, True
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._num_handled >= num_appends, timeout_s)
            self._is_flushing = False
        return num_waiting(self.run_dir)

    def close(self, timeout_s: float) -> int:
        """Flush for at most `timeout_s` and end the thread; return how many entries still wait."""
        self.flush(timeout_s)
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        self._thread.join(LINGER_S)  # if it waits for a server, it ends with that request
        return num_waiting(self.run_dir)

    def _run(self) -> None:
        num_failures, name = 0, self.run_dir.name
        while not self._is_closed:
            num_appends, num_sent = self._num_appends, self._relay.num_sent
            try:
                self._relay.send_all()
            except Exception as error:
                num_failures = 1 if self._relay.num_sent > num_sent else num_failures + 1
                if num_failures == 2:  # a first one may be two runs that write the same at once
                    text = "run %s: its store takes no entries (%s): all is kept in %s meanwhile"
                    _log.warning(text, name, error_line(error), self.run_dir)
                self._pause_after(num_failures)
                continue
            if num_failures > 1:
                _log.info("run %s: its store takes entries again", name)
            num_failures = 0
            with self._changed:
                self._num_handled = num_appends
                self._changed.notify_all()
            self._wait(lambda: self._is_closed or self._num_appends > self._num_handled)
            self._wait(lambda: self._is_closed or self._is_flushing, LINGER_S)

    def _pause_after(self, num_failures: int) -> None:
        """Wait longer with each failure in a row; a flush asks for a try every second."""
        pause_s = PAUSES_S[min(num_failures, len(PAUSES_S)) - 1]
        self._wait(lambda: self._is_closed, PAUSES_S[0])
        self._wait(lambda: self._is_closed or self._is_flushing, pause_s - PAUSES_S[0])

    def _wait(self, is_over: Callable[[], bool], seconds: float | None = None) -> None:
        with self._changed:
            self._changed.wait_for(is_over, seconds)
