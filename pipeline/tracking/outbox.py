"""A run's outbox: a durable queue of everything that the run logs, one JSON entry a line.

This is the transactional outbox pattern. A run appends each entry to a file of its own folder, and
goes on; one relay (`relay.py`) sends the entries to an idempotent sink (`mlflow_sink.py`). A store
that is slow or away delays nothing and loses nothing. In the run's folder lie
    outbox.jsonl           the entries in order; an entry is in the file when `append` returns
    outbox.done            how many of them the relay has passed, which of those it holds back, and
                           the store to which it sends them
    outbox.refused.jsonl   the refused ones, each with the reason
    outbox.lock            locked by the one process that relays
    artifacts/             the files that entries name

Appending is idempotent too: a metric or an image of a step is appended once, so that rounds which
a resumed run computes again add nothing. A line that a crash has cut off is skipped.

The outbox is also the run's own database, with or without a store. Whoever needs a run's curves
reads them with `read_points`.
"""

import json
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.files.atomic import room_for, sync
from pipeline.runs.layout import DONE, OUTBOX, REFUSED

ENDED = ("FINISHED", "FAILED", "KILLED")
FIELDS = {  # of an entry's payload, by its kind: those that are read here, with their types
    "metrics": {"step": int, "metrics": dict},
    "image": {"step": int, "key": str},
    "params": {"params": dict},
    "status": {"status": str},
    "model": {"folder": str},
}
Entry = dict[str, Any]  # kind, time_ms, and the payload of that kind
Key = tuple[str, str, int]  # kind, name and step of an entry that is appended once
Points = Sequence[tuple[int, Mapping[str, float]]]  # (step, metrics by name)


class Outbox:
    """Appends entries to a run's outbox, and knows which metrics, images and params it holds.

    `params`: the settings so far; `status`: the last one, None at first.
    """

    def __init__(self, run_dir: Path) -> None:
        self.path = run_dir / OUTBOX
        self.params: dict[str, str] = {}
        self.status: str | None = None
        self._keys: set[Key] = set()
        self._lock = threading.Lock()
        if _is_cut(self.path):
            self._write("\n")
        done, held, num_lines = read_done(run_dir), read_held(run_dir), 0
        for line in lines(run_dir):
            num_lines += 1
            if (entry := parse_entry(line)) is not None:
                self._keys |= _keys(entry)
                self._note(entry)
        if done > num_lines:  # a power cut took the newest lines: others will follow
            kept = [line for line in held if line < num_lines]
            write_done(run_dir, num_lines, kept, read_store(run_dir))

    def append(self, kind: str, **payload: Any) -> None:
        """Append one entry with the time of now."""
        self._append([{"kind": kind, "time_ms": now_ms(), **payload}])

    def append_points(self, points: Points) -> None:
        """Append the metrics of each step as an entry, without those that the outbox holds."""
        entries = []
        for step, metrics in points:
            new = {k: float(v) for k, v in metrics.items() if not self.has("metrics", k, step)}
            if new:
                entry = {"kind": "metrics", "time_ms": now_ms(), "step": step, "metrics": new}
                entries.append(entry)
        self._append(entries)

    def has(self, kind: str, name: str, step: int) -> bool:
        """Return whether the outbox holds a step of a metric (`metrics`) or an image (`image`).

        A `model` is known by its folder, at step 0.
        """
        return (kind, name, step) in self._keys

    def _append(self, entries: Sequence[Entry]) -> None:
        with self._lock:
            for entry in entries:
                self._append_one(entry, _keys(entry) - self._keys)

    def _append_one(self, entry: Entry, new: set[Key]) -> None:
        """Append an entry with its new keys: after an interrupt too there are both, or neither.

        Otherwise whoever is interrupted, and appends again, would write a second line.
        """
        size = self._size()
        try:
            self._keys |= new
            self._write(json.dumps(entry) + "\n")
        except BaseException:
            if self._size() == size:
                self._keys -= new
            raise
        self._note(entry)

    def _size(self) -> int:
        return self.path.stat().st_size if self.path.is_file() else 0

    def _write(self, line: str) -> None:
        with room_for(self.path), self.path.open("ab", 0) as file:
            start, content = file.tell(), line.encode()
            left, end = content, start + len(content)
            try:
                while left:
                    left = left[file.write(left) :]
            except BaseException:
                if file.tell() < end:  # otherwise the next entry would be part of this broken line
                    file.truncate(start)
                raise

    def _note(self, entry: Entry) -> None:
        if entry["kind"] == "params":
            self.params |= entry["params"]
        elif entry["kind"] == "status":
            self.status = entry["status"]


def _keys(entry: Entry) -> set[Key]:
    """Return the keys of a metric's, an image's or a model's entry; none of another."""
    if entry["kind"] == "metrics":
        return {("metrics", key, entry["step"]) for key in entry["metrics"]}
    if entry["kind"] == "image":
        return {("image", entry["key"], entry["step"])}
    return {("model", entry["folder"], 0)} if entry["kind"] == "model" else set()


def sync_outbox(run_dir: Path) -> None:
    """Bring a run's entries so far to the disk; do nothing if it has none."""
    if (run_dir / OUTBOX).is_file():
        sync(run_dir / OUTBOX)
        sync(run_dir)


def now_ms() -> int:
    """Return the time in milliseconds, as MLflow counts it."""
    return time.time_ns() // 1_000_000


def _is_cut(path: Path) -> bool:
    if not path.is_file() or path.stat().st_size == 0:
        return False
    with path.open("rb") as file:
        file.seek(-1, 2)
        return file.read() != b"\n"


def lines(run_dir: Path, offset: int = 0) -> Iterator[bytes]:
    """Yield the outbox's whole lines from a byte on; a line that is being written is left out."""
    if not (run_dir / OUTBOX).is_file():
        return
    with (run_dir / OUTBOX).open("rb") as file:
        file.seek(offset)
        for line in file:
            if not line.endswith(b"\n"):
                return
            yield line


def parse_entry(line: bytes) -> Entry | None:
    """Return a line's entry, or None if the line is cut off or is no entry."""
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return None
    kind = entry.get("kind") if isinstance(entry, dict) else None
    if not isinstance(kind, str):
        return None
    fits = all(isinstance(entry.get(key), type_) for key, type_ in FIELDS.get(kind, {}).items())
    return entry if fits else None


def read_entries(run_dir: Path) -> Iterator[Entry]:
    """Yield a run's entries in order."""
    return (entry for line in lines(run_dir) if (entry := parse_entry(line)) is not None)


def read_points(run_dir: Path) -> list[tuple[int, dict[str, float]]]:
    """Return all metrics of a run as (step, metrics by name), in the order of steps.

    This is the one reader of a run's curves. The first value of a step counts.
    """
    by_step: dict[int, dict[str, float]] = {}
    for entry in read_entries(run_dir):
        if entry["kind"] == "metrics":
            known = by_step.setdefault(entry["step"], {})
            known |= {k: v for k, v in entry["metrics"].items() if k not in known}
    return sorted(by_step.items())


def read_done(run_dir: Path) -> int:
    """Return how many lines the relay has passed: the sink took or refused them, or they are held.

    They were sent to the store `read_store`: another one begins at the first line. 0 if the number
    is unreadable: the sink is idempotent, so that all may be sent again.
    """
    return _position(run_dir)[0]


def read_held(run_dir: Path) -> list[int]:
    """Return the numbers, from 0, of the passed lines that are held back: files to be sent."""
    return _position(run_dir)[1]


def read_store(run_dir: Path) -> str:
    """Return the address of the store whose position is stored, "" if there is none."""
    return _position(run_dir)[2]


def _position(run_dir: Path) -> tuple[int, list[int], str]:
    try:
        numbers, store = (run_dir / DONE).read_text().splitlines()
        done, *held = map(int, numbers.split())
    except (FileNotFoundError, ValueError):
        return 0, [], ""
    return done, held, store


def write_done(run_dir: Path, count: int, held: Iterable[int], store: str) -> None:
    """Store how many lines the relay has passed, which of them it holds, and for which store."""
    part = run_dir / f"{DONE}.part"
    with part.open("w") as file:
        file.write(" ".join(map(str, (count, *sorted(held)))) + f"\n{store}\n")
    part.replace(run_dir / DONE)


def num_waiting(run_dir: Path) -> int:
    """Return how many entries wait for the store that has got the others."""
    done, held, _ = _position(run_dir)
    return max(0, sum(1 for _ in lines(run_dir)) - done) + len(held)


def num_refused(run_dir: Path) -> int:
    """Return how many entries the sink has refused for good."""
    path = run_dir / REFUSED
    return len(path.read_bytes().splitlines()) if path.is_file() else 0
