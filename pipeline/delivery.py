"""A thread beside a run that delivers its outbox, and waits for a store that does not answer."""

import logging
import threading
from collections.abc import Callable
from pathlib import Path

from pipeline.courier import LOCK_PAUSE_S, Courier, Store, reason_of, sole_courier
from pipeline.outbox import num_waiting

LINGER_S = 1.0  # between two looks into the outbox, so that rounds travel together
DELAYS_S = (1.0, 2.0, 4.0, 8.0, 16.0, 30.0)  # before another try
_log = logging.getLogger(__name__)


class Delivery:
    """A thread that delivers a run's entries as they come, until `close`."""

    def __init__(self, run_dir: Path, store: Store, name: str) -> None:
        self.run_dir, self.store, self.name = run_dir, store, name
        self._changed = threading.Condition()
        self._told, self._settled = 1, 0  # times that there was news, and that of the last look
        self._is_hurried = self._is_closed = False
        self._thread = threading.Thread(target=self._run, name=f"outbox {name}", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """Say that there are new entries."""
        with self._changed:
            self._told += 1
            self._changed.notify_all()

    def flush(self, timeout_s: float) -> int:
        """Wait until all entries so far are delivered, or for so long; return how many wait."""
        with self._changed:
            told, self._is_hurried = self._told, True
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._settled >= told, timeout_s)
            self._is_hurried = False
        return num_waiting(self.run_dir)

    def close(self, timeout_s: float) -> int:
        """Deliver for so long at most, and end; return how many entries wait."""
        self.flush(timeout_s)
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        self._thread.join(LINGER_S)  # one that waits for a server ends with its request
        return num_waiting(self.run_dir)

    def _run(self) -> None:
        while not self._is_closed:
            with sole_courier(self.run_dir) as is_ours:
                if is_ours:
                    self._deliver()
            self._pause(lambda: self._is_closed, LOCK_PAUSE_S)

    def _deliver(self) -> None:
        courier, failures = Courier(self.run_dir, self.store), 0
        while not self._is_closed:
            told, hurried = self._told, self._is_hurried
            try:
                found = courier.deliver_next()
            except Exception as error:
                if not failures:
                    text = "run %s: its store does not answer (%s): all is kept in %s until it does"
                    _log.warning(text, self.name, reason_of(error), self.run_dir)
                delay_s = DELAYS_S[min(0 if hurried else failures, len(DELAYS_S) - 1)]
                self._pause(lambda h=hurried: self._is_closed or self._is_hurried > h, delay_s)
                failures += 1
                continue
            if found and failures:
                failures = 0
                _log.info("run %s: its store answers again", self.name)
            if not found:
                with self._changed:
                    self._settled = told
                    self._changed.notify_all()
                self._pause(lambda t=told: self._is_closed or self._told > t)
                self._pause(lambda: self._is_closed or self._is_hurried, LINGER_S)

    def _pause(self, is_over: Callable[[], bool], seconds: float | None = None) -> None:
        with self._changed:
            self._changed.wait_for(is_over, seconds)
