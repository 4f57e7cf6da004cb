"""A run's outbox: all that it tells, one JSON entry a line, whether or not its store listens.

In the run's folder lie
    outbox.jsonl           the entries in order, each in the file before the call that told it ends
    outbox.done            how many of them the store has taken or refused for good
    outbox.refused.jsonl   those refused, each with the reason
    outbox.lock            locked by the one process that delivers (`delivery.py`)
    artifacts/             the files that entries name

A number or an image is told once: rounds that are computed again add nothing. A line that a crash
has cut off says nothing, and is passed over.
"""

import json
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.files.atomic import open_own, room_for
from pipeline.runs.layout import DONE, OUTBOX, REFUSED

ENDED = ("FINISHED", "FAILED", "KILLED")
SAYS = {  # what is read of an entry here, by its kind
    "metrics": {"step": int, "metrics": dict},
    "image": {"step": int, "key": str},
    "params": {"params": dict},
    "status": {"status": str},
    "model": {"folder": str},
}
Entry = dict[str, Any]  # kind, time_ms, and what that kind says
Points = Sequence[tuple[int, Mapping[str, float]]]  # (step, numbers by name)


class Outbox:
    """Adds entries to a run's outbox, and knows which numbers, images and settings it holds.

    `params`: the settings told so far; `status`: the last one told, None at first.
    """

    def __init__(self, run_dir: Path) -> None:
        self.path = run_dir / OUTBOX
        self.params: dict[str, str] = {}
        self.status: str | None = None
        self._told: set[tuple[str, str, int]] = set()  # (kind, name, step)
        self._lock = threading.Lock()
        if _is_cut(self.path):
            self._write("\n")
        done, num_lines = read_done(run_dir), 0
        for line in lines(run_dir):
            num_lines += 1
            if (entry := parsed(line)) is not None:
                self._note(entry)
        if done > num_lines:  # the newest lines were lost with the power: others will follow
            write_done(run_dir, num_lines)

    def add(self, kind: str, **said: Any) -> None:
        """Add one entry, of this moment."""
        self._add([{"kind": kind, "time_ms": now_ms(), **said}])

    def add_points(self, points: Points) -> None:
        """Add the numbers of each step as an entry, without those that were told before."""
        new = []
        for step, metrics in points:
            left = {k: float(v) for k, v in metrics.items() if not self.has("metrics", k, step)}
            if left:
                new.append({"kind": "metrics", "time_ms": now_ms(), "step": step, "metrics": left})
        self._add(new)

    def has(self, kind: str, name: str, step: int) -> bool:
        """Return whether a number (kind `metrics`) or an image (`image`) of a step was told.

        So was a `model`, by its folder, at step 0.
        """
        return (kind, name, step) in self._told

    def _add(self, entries: Sequence[Entry]) -> None:
        with self._lock:
            for entry in entries:
                self._write(json.dumps(entry) + "\n")
                self._note(entry)

    def _write(self, line: str) -> None:
        with room_for(self.path), open_own(self.path, "ab", 0) as file:
            end, left = file.tell(), line.encode()
            try:
                while left:
                    left = left[file.write(left) :]
            except OSError:
                file.truncate(end)  # the next entry would be lost in what is there of this one
                raise

    def _note(self, entry: Entry) -> None:
        if entry["kind"] == "metrics":
            self._told |= {("metrics", key, entry["step"]) for key in entry["metrics"]}
        elif entry["kind"] == "image":
            self._told.add(("image", entry["key"], entry["step"]))
        elif entry["kind"] == "model":
            self._told.add(("model", entry["folder"], 0))
        elif entry["kind"] == "params":
            self.params |= entry["params"]
        elif entry["kind"] == "status":
            self.status = entry["status"]


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
    """Yield the outbox's whole lines from a byte on; what is being written is left out."""
    if not (run_dir / OUTBOX).is_file():
        return
    with (run_dir / OUTBOX).open("rb") as file:
        file.seek(offset)
        for line in file:
            if not line.endswith(b"\n"):
                return
            yield line


def parsed(line: bytes) -> Entry | None:
    """Return a line's entry, or None if a crash has cut the line off, or it says something else."""
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return None
    kind = entry.get("kind") if isinstance(entry, dict) else None
    if not isinstance(kind, str):
        return None
    fits = all(isinstance(entry.get(key), type_) for key, type_ in SAYS.get(kind, {}).items())
    return entry if fits else None


def read_entries(run_dir: Path) -> Iterator[Entry]:
    """Yield a run's entries in order."""
    return (entry for line in lines(run_dir) if (entry := parsed(line)) is not None)


def read_points(run_dir: Path) -> list[tuple[int, dict[str, float]]]:
    """Return the run's numbers in the order of their steps."""
    by_step: dict[int, dict[str, float]] = {}
    for entry in read_entries(run_dir):
        if entry["kind"] == "metrics":
            known = by_step.setdefault(entry["step"], {})
            known |= {k: v for k, v in entry["metrics"].items() if k not in known}
    return sorted(by_step.items())


def read_done(run_dir: Path) -> int:
    """Return how many lines the store has taken: 0 if that is not known, since it is asked."""
    try:
        return int((run_dir / DONE).read_text())
    except (FileNotFoundError, ValueError):
        return 0


def write_done(run_dir: Path, count: int) -> None:
    """Keep how many lines the store has taken, atomically."""
    part = run_dir / f"{DONE}.part"
    with open_own(part, "w") as file:
        file.write(f"{count}\n")
    part.replace(run_dir / DONE)


def num_waiting(run_dir: Path) -> int:
    """Return how many entries the store has not taken yet."""
    return max(0, sum(1 for _ in lines(run_dir)) - read_done(run_dir))


def num_refused(run_dir: Path) -> int:
    """Return how many entries the store has refused for good."""
    path = run_dir / REFUSED
    return len(path.read_text().splitlines()) if path.is_file() else 0
