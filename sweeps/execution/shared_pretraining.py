"""Pre-training that several trials share: the first of them runs it, the others reuse it."""

from collections.abc import Callable
from pathlib import Path

from filelock import FileLock, Timeout

from sweeps.execution.study import Study

POLL_S = 0.5


class SharedPretraining:
    """One pre-training, by its fingerprint: `acquire`, then `publish` it or `release`.

    `<fingerprint>.run` names the run that has finished it. The lock beside it, which ends with its
    process, makes the others wait meanwhile.
    """

    def __init__(
        self, study: Study, folder: Path, fingerprint: str, is_whole: Callable[[Path], bool]
    ) -> None:
        """`is_whole` tells whether the pre-training in a run's folder can be reused."""
        folder.mkdir(parents=True, exist_ok=True)
        self.study, self.is_whole = study, is_whole
        self.file = folder / f"{fingerprint}.run"
        self.lock = FileLock(self.file.with_suffix(".lock"))

    def acquire(self, check_goes_on: Callable[[], None]) -> Path | None:
        """Return the run that has finished it; None if this process is to run it.

        Waits while another process runs it; `check_goes_on` may end that by an error.
        """
        while not self.lock.is_locked:
            check_goes_on()
            try:
                self.lock.acquire(timeout=POLL_S)
            except Timeout:
                continue
        run_dir = self.study.read_run(self.file)
        if run_dir is None or not self.is_whole(run_dir):
            return None
        self.release()
        return run_dir

    def publish(self, run_dir: Path) -> None:
        """Name this run as the one that has finished it; without the lock, do nothing."""
        if self.lock.is_locked:
            self.study.write_run(self.file, run_dir)
            self.release()

    def release(self) -> None:
        """Give the lock back, so that another process runs it unless it is published."""
        self.lock.release()
