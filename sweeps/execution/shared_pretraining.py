"""Pre-training that several trials share: the first of them runs it, the others reuse it.

`<fingerprint>.json`, in the sweep's folder or for all sweeps in `<root>/pretrained/`, names the run
that has finished it. A lock beside it, which ends with its process, makes the others wait
meanwhile.
"""

from collections.abc import Callable
from pathlib import Path
from typing import IO

from pipeline.files.atomic import try_lock, write_json
from sweeps.execution.ledger import LockWait, read_run_dir, sign

POLL_S = 0.5


class SharedPretraining:
    """One pre-training, by its fingerprint: `acquire`, then `publish` it or `release`."""

    def __init__(
        self, folder: Path, fingerprint: str, is_whole: Callable[[Path], bool] = Path.is_dir
    ) -> None:
        """`is_whole` tells whether the pre-training in a run's folder can be reused."""
        self.is_whole = is_whole
        self.record = folder / f"{fingerprint}.json"
        self._lock: IO[str] | None = None

    def acquire(self) -> Path | None:
        """Return the run that has finished it; None if this process is to run it.

        Waits while another process runs it, and says so.
        """
        self.record.parent.mkdir(parents=True, exist_ok=True)
        lock, read = self.record.with_suffix(".lock").open("a+"), None
        wait = LockWait(lock)
        while True:
            is_ours, before = try_lock(lock), read
            read = read_run_dir(self.record)  # after the lock, which whoever publishes then frees
            if read is not None and (is_ours or read != before) and self.is_whole(read):
                lock.close()
                return read
            if is_ours:
                sign(lock)
                self._lock = lock
                return None
            wait.pause(POLL_S)

    def publish(self, run_dir: Path) -> None:
        """Name this run as the one that has finished it; without the lock, do nothing."""
        if self._lock is not None:
            write_json(self.record, {"run_dir": str(run_dir)})
            self.release()

    def release(self) -> None:
        """Give the lock back, so that another process runs it unless it is published."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None
