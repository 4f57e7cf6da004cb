"""Takes what waits in a run's outbox to its store: in order, and counted once it has arrived.

Of all processes one at a time delivers a run's entries. Whatever a crash leaves uncounted is sent
again, to a `Store` in which that changes nothing.
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
from pipeline.tracking.outbox import Entry, lines, num_waiting, parsed, read_done, write_done

_log = logging.getLogger(__name__)

MAX_METRICS = 1000  # sent together; MLflow's limit
LOCK_WAIT_S, LOCK_PAUSE_S = 5.0, 0.1
_log = logging.getLogger(__name__)


class Refusal(Exception):
    """What no store can take, such as a file that is gone."""


class Store(Protocol):
    """Where entries go; to send one again changes nothing there."""

    def send(self, entries: Sequence[Entry]) -> None:
        """Write one entry, or several of metrics."""
        ...

    def doubt(self) -> None:
        """Ask, before the next entry, what is there: the last ones may have arrived or not."""
        ...

    def may_mend(self, error: Exception) -> bool:
        """Return whether the same entry may be taken later."""
        ...


class Courier:
    """Delivers a run's entries from the first that is not counted; its caller holds the lock."""

    def __init__(self, run_dir: Path, store: Store) -> None:
        self.run_dir, self.store, self.num_delivered = run_dir, store, 0
        self._count = self._offset = self._num_alone = 0
        done = read_done(run_dir)
        for line in lines(run_dir):
            if self._count == done:
                break
            self._count, self._offset = self._count + 1, self._offset + len(line)

    def deliver_next(self) -> bool:
        """Deliver the next entries; False if there are none. Raises what time may mend."""
        batch, count, offset = self._next_batch()
        if count == self._count:
            return False
        try:
            if batch:
                self.store.send(batch)
                self.num_delivered += len(batch)
        except Exception as error:
            if self.store.may_mend(error):
                self.store.doubt()
                raise
            if len(batch) > 1:  # which of them is at fault?
                self._num_alone = len(batch)
                return True
            self._refuse(batch[0], error)
        self._num_alone = max(0, self._num_alone - 1)
        self._count, self._offset = count, offset
        write_done(self.run_dir, count)
        return True

    def _next_batch(self) -> tuple[list[Entry], int, int]:
        """Return what goes together, with the count and the offset after it."""
        batch: list[Entry] = []
        num_metrics, count, offset = 0, self._count, self._offset
        for line in lines(self.run_dir, self._offset):
            entry = parsed(line)
            if entry is not None:
                num_metrics += len(entry.get("metrics", ()))
                if batch and (entry["kind"] != "metrics" or num_metrics > MAX_METRICS):
                    break
                batch.append(entry)
            count, offset = count + 1, offset + len(line)
            if batch and (batch[0]["kind"] != "metrics" or self._num_alone):
                break
        return batch, count, offset

    def _refuse(self, entry: Entry, error: Exception) -> None:
        reason = reason_of(error)
        with open_own(self.run_dir / REFUSED, "a") as file:
            file.write(json.dumps({"reason": reason, **entry}) + "\n")
        name = entry.get("file") or entry.get("key") or ", ".join(entry.get("metrics", ()))
        at = f" of step {entry['step']}" if "step" in entry else ""
        told = f"{entry['kind']} {name}".strip()
        place = self.run_dir / REFUSED
        _log.error("the store refuses %s%s (%s): it is kept in %s", told, at, reason, place)


def reason_of(error: Exception) -> str:
    """Return an error as one line without passwords."""
    return mask(" ".join(f"{error}".split()) or repr(error))[:300]


@contextlib.contextmanager
def sole_courier(run_dir: Path) -> Iterator[bool]:
    """Yield whether this process is now the one that delivers."""
    with open_own(run_dir / OUTBOX_LOCK, "w") as file:
        yield try_lock(file)


def deliver_all(run_dir: Path, store: Store) -> tuple[int, str | None]:
    """Deliver what waits; return how many entries arrived, and what stopped it before the end.

    Waits for another process that delivers them, as long as that makes progress.
    """
    done, until = -1, 0.0
    while True:
        if (now_done := read_done(run_dir)) != done:  # whoever is at it gets on
            done, until = now_done, time.monotonic() + LOCK_WAIT_S
        with sole_courier(run_dir) as is_ours:
            if is_ours:
                courier = Courier(run_dir, store)
                try:
                    while courier.deliver_next():
                        pass
                except Exception as error:
                    return courier.num_delivered, reason_of(error)
                return courier.num_delivered, None
        if time.monotonic() > until:
            return 0, "another process is delivering them"
        time.sleep(LOCK_PAUSE_S)


LINGER_S = 1.0  # between two looks into the outbox, so that rounds travel together
DELAYS_S = (1.0, 2.0, 4.0, 8.0, 16.0, 30.0)  # before another try


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
