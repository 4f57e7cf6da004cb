"""A run's outbox: an append-only file of everything that the run logs, one JSON entry a line.

A run appends its entries and goes on; the relay (`relay.py`) sends them to the tracking store. A
store that is slow or away delays nothing and loses nothing. In the run's folder lie
    outbox.jsonl           the entries in order; an entry is in the file when `append` returns
    outbox.done            the cursor: how many bytes a store has got, and that store's address
    outbox.refused.jsonl   the entries that the store refused for good, each with the reason
    outbox.lock            locked by the process that is sending
    artifacts/             the files that entries name

A metric or an image of a step is appended once, so that rounds which a resumed run computes again
add nothing. A line that a crash has cut off is skipped. The outbox is also the run's own database:
`read_points` returns its curves, with or without a store.
"""

import contextlib
import json
import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.files.atomic import sync, write_whole, writing
from pipeline.runs.layout import DONE, OUTBOX, REFUSED

ENDED = ("FINISHED", "FAILED", "KILLED")
Entry = dict[str, Any]  # kind, time_ms, and the payload of that kind
Points = Sequence[tuple[int, Mapping[str, float]]]  # (step, metrics by name)


class Outbox:
    """Appends entries to a run's outbox, and knows which metrics, images and models it holds.

    `status`: the last one, None at first.
    """

    def __init__(self, run_dir: Path) -> None:
        self.path = run_dir / OUTBOX
        self.status: str | None = None
        self._keys = set[tuple[str, str, int]]()  # kind, name and step of what is appended once
        self._lock = threading.Lock()
        for entry, _ in entries(run_dir):
            self._note(entry)
        if self._size() and not self.path.read_bytes().endswith(b"\n"):
            self._write(b"\n")
        offset, store = read_cursor(run_dir)
        if offset > self._size():  # a power cut took the newest lines: others will follow
            write_cursor(run_dir, self._size(), store)

    def append(self, kind: str, **payload: Any) -> None:
        """Append one entry with the time of now.

        After an interrupt or an error the entry is both in the file and noted, or neither.
        """
        entry = {"kind": kind, "time_ms": now_ms(), **payload}
        line = json.dumps(entry).encode() + b"\n"
        with self._lock:
            size = self._size()
            try:
                self._write(line)
            finally:
                if self._size() == size + len(line):
                    self._note(entry)
                elif self._size() > size:  # the next entry would be part of this broken line
                    os.truncate(self.path, size)

    def append_points(self, points: Points) -> None:
        """Append the metrics of each step as an entry, without those that the outbox holds."""
        for step, metrics in points:
            new = {k: float(v) for k, v in metrics.items() if not self.has("metrics", k, step)}
            if new:
                self.append("metrics", step=step, metrics=new)

    def has(self, kind: str, name: str, step: int) -> bool:
        """Return whether the outbox holds a step of a metric (`metrics`) or an image (`image`).

        A `model` is known by its folder, at step 0.
        """
        return (kind, name, step) in self._keys

    def _size(self) -> int:
        return self.path.stat().st_size if self.path.is_file() else 0

    def _write(self, content: bytes) -> None:
        with writing(self.path), self.path.open("ab") as file:
            file.write(content)

    def _note(self, entry: Entry) -> None:
        match entry["kind"]:
            case "metrics":
                self._keys |= {("metrics", key, entry["step"]) for key in entry["metrics"]}
            case "image":
                self._keys.add(("image", entry["key"], entry["step"]))
            case "model":
                self._keys.add(("model", entry["folder"], 0))
            case "status":
                self.status = entry["status"]


def sync_outbox(run_dir: Path) -> None:
    """Bring a run's entries so far to the disk; do nothing if it has none."""
    if (run_dir / OUTBOX).is_file():
        sync(run_dir / OUTBOX)
        sync(run_dir)


def now_ms() -> int:
    """Return the time in milliseconds, as MLflow counts it."""
    return time.time_ns() // 1_000_000


def entries(run_dir: Path, offset: int = 0) -> Iterator[tuple[Entry, int]]:
    """Yield a run's entries from a byte on in order, each with the byte after it.

    A line that is being written, or that a crash has cut off, is left out.
    """
    if not (run_dir / OUTBOX).is_file():
        return
    with (run_dir / OUTBOX).open("rb") as file:
        file.seek(offset)
        for line in file:
            offset += len(line)
            if not line.endswith(b"\n"):
                return
            with contextlib.suppress(ValueError):
                yield json.loads(line), offset


def read_points(run_dir: Path) -> list[tuple[int, dict[str, float]]]:
    """Return all metrics of a run as (step, metrics by name), in the order of steps.

    This is the one reader of a run's curves. The first value of a step counts.
    """
    by_step: dict[int, dict[str, float]] = {}
    for entry, _ in entries(run_dir):
        if entry["kind"] == "metrics":
            by_step[entry["step"]] = entry["metrics"] | by_step.get(entry["step"], {})
    return sorted(by_step.items())


def read_cursor(run_dir: Path) -> tuple[int, str]:
    """Return how many bytes of the outbox a store has got, and that store's address.

    Without a cursor all is sent again, which changes nothing in the store.
    """
    try:
        offset, store = (run_dir / DONE).read_text().splitlines()
        return int(offset), store
    except (FileNotFoundError, ValueError):
        return 0, ""


def write_cursor(run_dir: Path, offset: int, store: str) -> None:
    """Store how many bytes of the outbox a store has got."""
    write_whole(run_dir / DONE, f"{offset}\n{store}\n".encode())


def num_waiting(run_dir: Path) -> int:
    """Return how many entries wait for the store that has got the others."""
    return sum(1 for _ in entries(run_dir, read_cursor(run_dir)[0]))


def num_refused(run_dir: Path) -> int:
    """Return how many entries the store has refused for good."""
    path = run_dir / REFUSED
    return len(path.read_bytes().splitlines()) if path.is_file() else 0
