"""The relay of a run's outbox: it sends the waiting entries to a sink, in order, and counts them.

One process at a time relays the entries of a run. Each batch is counted once the sink has it. After
a crash in between it is sent again, which changes nothing because the sink is idempotent.
"""

import contextlib
import json
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

from pipeline.files.atomic import open_own, try_lock
from pipeline.files.masking import mask
from pipeline.runs.layout import OUTBOX_LOCK, REFUSED
from pipeline.tracking.outbox import (
    Entry,
    lines,
    num_waiting,
    parse_entry,
    read_done,
    write_done,
)

MAX_METRICS = 1000  # in one batch; MLflow's limit
LOCK_WAIT_S, LOCK_PAUSE_S = 5.0, 0.1
LINGER_S = 1.0  # between two looks into the outbox, so that rounds travel together
RETRY_DELAYS_S = (1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
_log = logging.getLogger(__name__)


class Refusal(Exception):
    """An entry that no sink can take, for example because its file is gone."""


class Sink(Protocol):
    """The destination of entries. It is idempotent: to send an entry again changes nothing."""

    def send(self, entries: Sequence[Entry]) -> None:
        """Write one entry, or several of metrics."""
        ...

    def forget_position(self) -> None:
        """Ask the destination, before the next entry, which entries it has.

        The relay calls this after a failure, when it is unknown whether the last batch arrived.
        """
        ...

    def is_retryable(self, error: Exception) -> bool:
        """Return whether the same entry may succeed later."""
        ...


class Relay:
    """Sends the entries of a run from the first uncounted one; its caller holds `sole_relay`."""

    def __init__(self, run_dir: Path, sink: Sink) -> None:
        self.run_dir, self.sink, self.num_sent = run_dir, sink, 0
        self._count = self._offset = 0  # lines and bytes that are dealt with
        self._num_singly = 0  # entries to send one by one, to find the one that is refused
        done = read_done(run_dir)
        for line in lines(run_dir):
            if self._count == done:
                break
            self._count, self._offset = self._count + 1, self._offset + len(line)

    def send_all(self) -> None:
        """Send entries until none is left; raises retryable errors."""
        while self.send_next():
            pass

    def send_next(self) -> bool:
        """Send the next batch; False if there is none. Raises retryable errors."""
        batch, count, offset = self._next_batch()
        if count == self._count:
            return False
        try:
            if batch:
                self.sink.send(batch)
                self.num_sent += len(batch)
        except Exception as error:
            if self.sink.is_retryable(error):
                self.sink.forget_position()
                raise
            if len(batch) > 1:
                self._num_singly = len(batch)
                return True
            self._refuse(batch[0], error)
        self._num_singly = max(0, self._num_singly - 1)
        self._count, self._offset = count, offset
        write_done(self.run_dir, count)
        return True

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
        reason = reason_of(error)
        place = self.run_dir / REFUSED
        with open_own(place, "a") as file:
            file.write(json.dumps({"reason": reason, **entry}) + "\n")
        name = entry.get("file") or entry.get("key") or ", ".join(entry.get("metrics", ()))
        at = f" of step {entry['step']}" if "step" in entry else ""
        label = f"{entry['kind']} {name}".strip()
        _log.error("the store refuses %s%s (%s): it is kept in %s", label, at, reason, place)


def reason_of(error: Exception) -> str:
    """Return an error as one line without passwords."""
    return mask(" ".join(f"{error}".split()) or repr(error))[:300]


@contextlib.contextmanager
def sole_relay(run_dir: Path) -> Iterator[bool]:
    """Yield whether this process is now the only one that relays the entries of a run."""
    with open_own(run_dir / OUTBOX_LOCK, "w") as file:
        yield try_lock(file)


def relay_all(run_dir: Path, sink: Sink) -> tuple[int, str | None]:
    """Send all waiting entries; return how many arrived, and the error that stopped it, if any.

    Waits for another process that relays them, as long as that one makes progress.
    """
    done, deadline = -1, 0.0
    while True:
        if (now_done := read_done(run_dir)) != done:
            done, deadline = now_done, time.monotonic() + LOCK_WAIT_S
        with sole_relay(run_dir) as is_ours:
            if is_ours:
                relay = Relay(run_dir, sink)
                try:
                    relay.send_all()
                except Exception as error:
                    return relay.num_sent, reason_of(error)
                return relay.num_sent, None
        if time.monotonic() > deadline:
            return 0, "another process is delivering them"
        time.sleep(LOCK_PAUSE_S)


class RelayThread:
    """A thread that relays the entries of a run as they are appended, until `close`."""

    def __init__(self, run_dir: Path, sink: Sink, name: str) -> None:
        self.run_dir, self.sink, self.name = run_dir, sink, name
        self._changed = threading.Condition()
        self._num_appends = 1  # notifications so far; the first stands for what is there already
        self._num_handled = 0  # of these, how many came before the outbox was last empty
        self._is_flushing = self._is_closed = False
        self._thread = threading.Thread(target=self._run, name=f"outbox {name}", daemon=True)
        self._thread.start()

    def notify(self) -> None:
        """Announce that entries were appended."""
        with self._changed:
            self._num_appends += 1
            self._changed.notify_all()

    def flush(self, timeout_s: float) -> int:
        """Wait until the sink has all entries, at most `timeout_s`; return how many still wait."""
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
        while not self._is_closed:
            with sole_relay(self.run_dir) as is_ours:
                if is_ours:
                    self._relay_until_closed()
            self._pause(lambda: self._is_closed, LOCK_PAUSE_S)

    def _relay_until_closed(self) -> None:
        relay, num_failures = Relay(self.run_dir, self.sink), 0
        while not self._is_closed:
            num_appends, is_flushing = self._num_appends, self._is_flushing
            try:
                has_sent = relay.send_next()
            except Exception as error:
                self._wait_to_retry(error, num_failures, is_flushing)
                num_failures += 1
                continue
            if not has_sent:
                self._wait_for_entries(num_appends)
            elif num_failures:
                num_failures = 0
                _log.info("run %s: its store answers again", self.name)

    def _wait_to_retry(self, error: Exception, num_failures: int, is_flushing: bool) -> None:
        """Pause after a failure; a flush that begins meanwhile ends the pause."""
        if not num_failures:
            text = "run %s: its store does not answer (%s): all is kept in %s until it does"
            _log.warning(text, self.name, reason_of(error), self.run_dir)
        delay_s = RETRY_DELAYS_S[min(0 if is_flushing else num_failures, len(RETRY_DELAYS_S) - 1)]
        self._pause(lambda: self._is_closed or self._is_flushing > is_flushing, delay_s)

    def _wait_for_entries(self, num_appends: int) -> None:
        """Report that the outbox is empty, wait for a new entry, and linger for more of them."""
        with self._changed:
            self._num_handled = num_appends
            self._changed.notify_all()
        self._pause(lambda: self._is_closed or self._num_appends > num_appends)
        self._pause(lambda: self._is_closed or self._is_flushing, LINGER_S)

    def _pause(self, is_over: Callable[[], bool], seconds: float | None = None) -> None:
        with self._changed:
            self._changed.wait_for(is_over, seconds)
