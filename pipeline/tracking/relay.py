"""The relay of a run's outbox: it sends the waiting entries to a sink, in order, and counts them.

Files have an order of their own: one that cannot be sent is held back with those that follow it,
and the numbers go on. One process at a time relays the entries of a run. Each batch is counted once
the sink has it. After a crash in between it is sent again, which changes nothing because the sink
is idempotent.
"""

import contextlib
import json
import logging
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

from pipeline.files.atomic import try_lock
from pipeline.files.paths import error_line
from pipeline.runs.layout import DONE, OUTBOX_LOCK, REFUSED
from pipeline.tracking.outbox import (
    Entry,
    lines,
    num_waiting,
    parse_entry,
    read_done,
    read_held,
    read_store,
    write_done,
)

MAX_METRICS = 1000  # in one batch; MLflow's limit
LOCK_WAIT_S, LOCK_PAUSE_S = 5.0, 0.1
SYNC_DELAYS_S = (0.5, 1.0, 2.0)  # before `relay_all` gives up
SLOW_S = 5.0  # a request that failed after so long is not repeated by `relay_all`
FILE_KINDS = ("file", "image", "table", "model")
MAX_BARE_TRIES = 5  # of an entry whose error is a bare `Exception`, which says nothing
_log = logging.getLogger(__name__)


class Refusal(Exception):
    """An entry that no sink can take, for example because its file is gone."""


class UnknownRunError(Exception):
    """The sink's store does not know the run, as if it had come back on another database."""


class FolderError(Exception):
    """The run's own folder cannot be written: what the sink has taken is not counted there."""


class Sink(Protocol):
    """The destination of entries. It is idempotent: to send an entry again changes nothing.

    `address`: of the store, without a password; the run's position counts for this store alone.
    """

    address: str

    def send(self, entries: Sequence[Entry]) -> None:
        """Write one entry, or several of metrics."""
        ...

    def is_retryable(self, error: Exception) -> bool:
        """Return whether the same entry may succeed later."""
        ...


class Relay:
    """Sends the entries of a run from the first uncounted one; its caller holds `sole_relay`."""

    def __init__(self, run_dir: Path, sink: Sink) -> None:
        self.run_dir, self.sink, self.num_sent = run_dir, sink, 0
        self._count = self._offset = 0  # lines and bytes that are passed
        self._num_singly = 0  # entries to send one by one, to find the one that is refused
        self._held: dict[int, Entry] = {}  # files that could not be sent, by their line
        self._num_bare = Counter[int]()  # bare exceptions, by the line of the entry
        self._is_counted = True  # whether the file has the two numbers above and those held
        done, held = 0, list[int]()
        if read_store(run_dir) == sink.address:
            done, held = read_done(run_dir), read_held(run_dir)
        for line in lines(run_dir):
            if self._count == done:
                break
            if self._count in held and (entry := parse_entry(line)) is not None:
                self._held[self._count] = entry
            self._count, self._offset = self._count + 1, self._offset + len(line)

    @property
    def has_held(self) -> bool:
        """Whether files are held back."""
        return bool(self._held)

    @property
    def position(self) -> tuple[int, int]:
        """The numbers of lines passed and held; either changes with every success."""
        return self._count, len(self._held)

    def send_all(self) -> None:
        """Send entries until none is left; raises retryable errors."""
        while self.send_next():
            pass
        self.send_held()

    def send_next(self) -> bool:
        """Send the next batch, or count the last one; False if all lines are passed.

        A file that fails, or that follows a held one, is held. Held files are tried again before a
        status, so that a run ends after its files if they can be sent. Raises retryable errors, and
        FolderError, after which nothing is sent before it is counted.
        """
        if not self._is_counted:
            self._store_count()
            return True
        batch, count, offset = self._next_batch()
        if count == self._count:
            return False
        kind = batch[0]["kind"] if batch else ""
        if kind == "status":
            with contextlib.suppress(Exception):
                self.send_held()
        if kind in FILE_KINDS:
            is_sent = not self._held and self._has_sent_file(batch, count - 1)
            if not is_sent:
                self._held[count - 1] = batch[0]
        elif batch and not self._has_sent(batch, self._count):
            return True
        self._num_singly = max(0, self._num_singly - 1)
        self._count, self._offset = count, offset
        self._store_count()
        return True

    def send_held(self) -> None:
        """Send the held files in their order; raises as `send_next` does."""
        for line in sorted(self._held):
            self._has_sent([self._held[line]], line)
            del self._held[line]
            self._store_count()

    def _store_count(self) -> None:
        self._is_counted = False
        with _own_file(self.run_dir / DONE):
            write_done(self.run_dir, self._count, self._held, self.sink.address)
        self._is_counted = True

    def _has_sent_file(self, batch: list[Entry], line: int) -> bool:
        try:
            return self._has_sent(batch, line)
        except Exception:  # a retryable one, which `send_held` raises again if it stays
            return False

    def _has_sent(self, batch: list[Entry], line: int) -> bool:
        """Send a batch, or refuse its only entry; False if its entries are to be sent one by one.

        `line`: of its first entry. Raises retryable errors.
        """
        try:
            self.sink.send(batch)
        except Exception as error:
            if self._may_succeed(error, line):
                raise
            if len(batch) > 1:
                self._num_singly = len(batch)
                return False
            self._refuse(batch[0], error)
        else:
            self.num_sent += len(batch)
        return True

    def _may_succeed(self, error: Exception, line: int) -> bool:
        self._num_bare[line] += type(error) is Exception
        return self._num_bare[line] < MAX_BARE_TRIES and self.sink.is_retryable(error)

    def _next_batch(self) -> tuple[list[Entry], int, int]:
        """Return the entries that go together, with the count and the offset after them."""
        batch: list[Entry] = []
        num_metrics, count, offset = 0, self._count, self._offset
        for line in lines(self.run_dir, self._offset):
            entry = parse_entry(line)
            if entry is not None:
                num_metrics += len(entry.get("metrics", ()))
                if batch and (entry["kind"] != "metrics" or num_metrics > MAX_METRICS):
                    break
                batch.append(entry)
            count, offset = count + 1, offset + len(line)
            if batch and (batch[0]["kind"] != "metrics" or self._num_singly):
                break
        return batch, count, offset

    def _refuse(self, entry: Entry, error: Exception) -> None:
        reason = error_line(error)
        place = self.run_dir / REFUSED
        with _own_file(place), place.open("a") as file:
            file.write(json.dumps({"reason": reason, **entry}) + "\n")
        name = entry.get("file") or entry.get("key") or ", ".join(entry.get("metrics", ()))
        at = f" of step {entry['step']}" if "step" in entry else ""
        label = f"{entry['kind']} {name}".strip()
        _log.error("the store refuses %s%s (%s): it is kept in %s", label, at, reason, place)


@contextlib.contextmanager
def _own_file(path: Path) -> Iterator[None]:
    """Turn the system's error about a file of the run's folder into a FolderError that names it."""
    try:
        yield
    except OSError as error:
        raise FolderError(f"{error.strerror or error}: {path}") from error


@contextlib.contextmanager
def sole_relay(run_dir: Path) -> Iterator[bool]:
    """Yield whether this process is now the only one that relays the entries of a run."""
    with (run_dir / OUTBOX_LOCK).open("w") as file:
        yield try_lock(file)


def relay_all(run_dir: Path, sink: Sink) -> tuple[int, str | None]:
    """Send all waiting entries; return how many arrived, and the error that stopped it, if any.

    Waits for another process that relays them, as long as that one makes progress, and until it has
    sent those that wait now: a run in progress adds others without end.
    """
    done, deadline, num_now = (-1, list[int]()), 0.0, sum(1 for _ in lines(run_dir))
    while True:
        if (now_done := (read_done(run_dir), read_held(run_dir))) != done:
            done, deadline = now_done, time.monotonic() + LOCK_WAIT_S
        with sole_relay(run_dir) as is_ours:
            if is_ours:
                relay = Relay(run_dir, sink)
                return _send_with_tries(relay)
        are_sent = done[0] >= num_now and not any(held < num_now for held in done[1])
        if are_sent or time.monotonic() > deadline:
            return 0, "another process is delivering them" if num_waiting(run_dir) else None
        time.sleep(LOCK_PAUSE_S)


def _send_with_tries(relay: Relay) -> tuple[int, str | None]:
    """Send all, in a few tries that start anew with every success."""
    num_failures = 0
    while True:
        position, began = relay.position, time.monotonic()
        try:
            relay.send_all()
            return relay.num_sent, None
        except Exception as error:
            if relay.position != position:
                num_failures = 0
            elif num_failures == len(SYNC_DELAYS_S) or time.monotonic() - began > SLOW_S:
                return relay.num_sent, error_line(error)
        time.sleep(SYNC_DELAYS_S[num_failures])
        num_failures += 1
