"""The thread that relays the entries of a run while it appends them."""

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path

from pipeline.files.paths import error_line
from pipeline.tracking.outbox import num_waiting
from pipeline.tracking.relay import (
    LOCK_PAUSE_S,
    FolderError,
    Relay,
    Sink,
    UnknownRunError,
    sole_relay,
)
from spire_core.errors import RunError

LINGER_S = 1.0  # between two looks into the outbox, so that rounds travel together
RETRY_DELAYS_S = (1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
_log = logging.getLogger(__name__)


class _Outage:
    """Failures in a row: the pause after each, and one line in the log for all of them.

    `subject` and its `fault` begin that line, in which `plan` follows the error; with `relief` it
    begins the line at their end.
    """

    def __init__(self, subject: str, fault: str, plan: str, relief: str) -> None:
        self.subject, self.fault, self.plan, self.relief = subject, fault, plan, relief
        self.num_failures = 0

    def delay_s(self, error: Exception, is_flushing: bool) -> float:
        """Count a failure; return the seconds to wait before the next try."""
        if not self.num_failures:
            text = "%s %s (%s): %s"
            _log.warning(text, self.subject, self.fault, error_line(error), self.plan)
        index = 0 if is_flushing else min(self.num_failures, len(RETRY_DELAYS_S) - 1)
        self.num_failures += 1
        return RETRY_DELAYS_S[index]

    def end(self) -> None:
        """Count a success."""
        if self.num_failures:
            self.num_failures = 0
            _log.info("%s %s", self.subject, self.relief)


class _Outages:
    """The outages of each kind in a run's delivery."""

    def __init__(self, name: str, run_dir: Path) -> None:
        store, files = f"run {name}: its store", f"run {name}: the place of its files"
        folder, kept = f"run {name}: its folder", f"all is kept in {run_dir} until it does"
        counted = "what its store has taken is counted when it can"
        self.store = _Outage(store, "does not answer", kept, "answers again")
        self.unknown = _Outage(store, "does not know it", kept, "knows it again")
        self.files = _Outage(files, "does not answer", kept, "answers again")
        self.folder = _Outage(folder, "cannot be written", counted, "can be written again")
        waits = f"all waits in {run_dir} until it can"
        self.opening = _Outage(folder, "cannot be used", waits, "can be used again")

    def of(self, error: Exception, others: _Outage) -> _Outage:
        """Return the outage that an error is a part of, `others` if it does not tell."""
        if isinstance(error, UnknownRunError):
            return self.unknown
        return self.folder if isinstance(error, FolderError) else others

    def end(self) -> None:
        """Count a success, but not of the place of files."""
        for outage in (self.store, self.unknown, self.folder):
            outage.end()


class RelayThread:
    """A thread that relays the entries of a run as they are appended, until `close`."""

    def __init__(self, run_dir: Path, sink: Sink, name: str) -> None:
        self.run_dir, self.sink, self.name = run_dir, sink, name
        self._changed = threading.Condition()
        self._num_appends = 1  # notifications so far; the first stands for what is there already
        self._num_handled = 0  # of these, how many came before the outbox was last empty
        self._is_flushing = self._is_closed = self._was_flushing = False
        self._held_until = 0.0  # the time before which held files are not tried again
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
        outages = _Outages(self.name, self.run_dir)
        while not self._is_closed:
            is_flushing = self._is_flushing
            try:
                with sole_relay(self.run_dir) as is_ours:
                    if is_ours:
                        self._relay_until_closed(outages)
            except (OSError, RunError) as error:  # of the lock or the outbox, not of the sink
                self._wait(outages.opening.delay_s(error, is_flushing), is_flushing)
            else:
                self._pause(lambda: self._is_closed, LOCK_PAUSE_S)

    def _relay_until_closed(self, outages: _Outages) -> None:
        relay = Relay(self.run_dir, self.sink)
        outages.opening.end()
        while not self._is_closed:
            num_appends, is_flushing = self._num_appends, self._is_flushing
            try:
                has_sent = relay.send_next()
            except Exception as error:
                outage = outages.of(error, outages.store)
                self._wait(outage.delay_s(error, is_flushing), is_flushing)
                continue
            if has_sent:
                outages.end()
            elif relay.has_held:
                self._send_held(relay, outages, num_appends, is_flushing)
            else:
                outages.end()
                outages.files.end()
                self._wait_for_entries(num_appends)

    def _send_held(
        self, relay: Relay, outages: _Outages, num_appends: int, is_flushing: bool
    ) -> None:
        """Try the held files again, if it is time; pause after a failure until there is more."""
        if time.monotonic() >= self._held_until or is_flushing > self._was_flushing:
            self._held_until = 0.0
            try:
                relay.send_held()
            except Exception as error:
                delay_s = outages.of(error, outages.files).delay_s(error, is_flushing)
                self._held_until = time.monotonic() + delay_s
        self._was_flushing = is_flushing
        if relay.has_held:
            left_s = self._held_until - time.monotonic()
            self._wait(left_s, is_flushing, lambda: self._num_appends > num_appends)

    def _wait(
        self, delay_s: float, is_flushing: bool, is_over: Callable[[], bool] = lambda: False
    ) -> None:
        """Pause after a failure; a flush that begins meanwhile ends the pause."""
        self._pause(
            lambda: self._is_closed or self._is_flushing > is_flushing or is_over(),
            max(0.0, delay_s),
        )

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
