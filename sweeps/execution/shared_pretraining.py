"""Pre-training that several trials have in common: done by the first of them, taken by the others.

`<fingerprint>.json`, in the sweep's folder or for all sweeps in `<root>/pretrained/`, names the run
that has finished it. A lock beside it, which ends with its process, makes the others wait
meanwhile.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

from pipeline.files.atomic import try_lock
from pipeline.files.json_files import read_json, write_json

POLL_S = 0.5


class SharedPretraining:
    """One pre-training, by its fingerprint: `acquire`, then `publish` it or `release`."""

    def __init__(
        self, folder: Path, fingerprint: str, is_whole: Callable[[Path], bool] = Path.is_dir
    ) -> None:
        """`is_whole` says of a run's folder whether it can be taken; if not, it is done again."""
        self.is_whole = is_whole
        self.record = folder / f"{fingerprint}.json"
        self._lock: IO[str] | None = None

    def acquire(self) -> Path | None:
        """Return the run that has done it, or None: then it is ours to do, and others wait.

        Waits while another process is at it.
        """
        self.record.parent.mkdir(parents=True, exist_ok=True)
        lock = self.record.with_suffix(".lock").open("w")
        while True:
            if (source := self._source()) is not None:
                lock.close()
                return source
            if not try_lock(lock):
                time.sleep(POLL_S)
                continue
            if (source := self._source()) is None:
                self._lock = lock
                return None
            lock.close()
            return source

    def _source(self) -> Path | None:
        if (values := read_json(self.record)) is None:
            return None
        run_dir = Path(values["run_dir"])
        return run_dir if self.is_whole(run_dir) else None

    def publish(self, run_dir: Path) -> None:
        """Say that this run has finished it; nothing happens without the lock."""
        if self._lock is not None:
            write_json(self.record, {"run_dir": str(run_dir)})
            self.release()

    def release(self) -> None:
        """Let another process do it, unless it is published."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None
