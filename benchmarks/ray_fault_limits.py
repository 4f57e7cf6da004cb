"""Too little memory, object store or disk for a run of `ray_faults.py`."""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from chaos_desk import small_disk

MIB = 2**20
STORE_BYTES, DISK_BYTES = 100_000_000, 150 * MIB
HEADROOM_BYTES = 64 * MIB  # that a run in a control group has when its limit comes
GROUPS = Path("/sys/fs/cgroup")
STORE = {"RAY_DEFAULT_OBJECT_STORE_MAX_MEMORY_BYTES": str(STORE_BYTES)}
HOG = """
import sys, time
use, limit = sys.argv[1:]
blocks = []
while True:
    if int(open(limit).read()) - int(open(use).read()) > 4 * 2**20:
        blocks.append(bytearray(b"x") * 2**20)
    else:
        time.sleep(0.05)
"""  # takes what memory there is, and gives nothing back


class Unavailable(Exception):
    """This machine does not let us set a limit."""


@contextlib.contextmanager
def surroundings(limits: str, folder: Path) -> Iterator[dict[str, str]]:
    """Yield the environment of a run: with a small store, and a small disk below it, or neither."""
    if limits != "store and disk":
        yield STORE if limits == "store" else {}
        return
    with small_disk(folder / "ray", DISK_BYTES) as is_mounted:
        if not is_mounted:
            raise Unavailable("no right to mount a small disk")
        yield {**STORE, "RAY_TMPDIR": str(folder / "ray")}


class Group:
    """A control group for a run's memory, of version 1 or 2."""

    def __init__(self) -> None:
        is_first = (GROUPS / "memory").is_dir()
        self.folder = (GROUPS / "memory" if is_first else GROUPS) / f"spire-faults-{os.getpid()}"
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes")
        names = names if is_first else ("memory.max", "memory.current")
        try:
            self.folder.mkdir()
        except OSError as error:
            raise Unavailable("no right to make a control group") from error
        self.limit, self.use = (self.folder / name for name in names)
        self.hog: subprocess.Popen[bytes] | None = None

    def take(self, pid: int) -> None:
        """Move a process here, and with it what it starts later."""
        (self.folder / "cgroup.procs").write_text(str(pid))

    def fill(self) -> None:
        """Limit the memory to little more than is in use, and take the rest."""
        self.limit.write_text(str(int(self.use.read_text()) + HEADROOM_BYTES))
        words = [sys.executable, "-c", HOG, str(self.use), str(self.limit)]
        self.hog = subprocess.Popen(words)
        with contextlib.suppress(PermissionError):  # Ray offers its workers to the kernel first
            Path(f"/proc/{self.hog.pid}/oom_score_adj").write_text("-1000")
        self.take(self.hog.pid)

    def close(self) -> None:
        """End what fills it, and remove it when its last process has ended."""
        if self.hog is not None:
            self.hog.kill()
            self.hog.wait()
        for _ in range(100):
            try:
                os.rmdir(self.folder)
                return
            except OSError:
                time.sleep(0.1)
