"""A command in a session of its own, and how its processes of Ray are found.

`chaos.py` and tests use it.
"""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from pipeline.runs.layout import RECORD
from pipeline.tracking.outbox import read_points

MARK = "SPIRE_TEST_PROCESS"  # a variable of the environment, which all processes inherit
NOT_INHERITED = ("MLFLOW_TRACKING_URI", "RAY_ADDRESS", "SPIRE_ROOT")


class Missed(Exception):
    """The command was over, or much time had passed, before it came to the moment waited for."""


def marked(value: str) -> list[psutil.Process]:
    """Return the processes whose environment has this value of `MARK`."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get(MARK) == value:
                found.append(process)
    return found


class Command:
    """A command that was typed in a folder, and what became of it."""

    def __init__(self, folder: Path, data: Path, *words: str, **env: str) -> None:
        """Start it with these words; `data` is the folder of data sets."""
        inherited = {k: v for k, v in os.environ.items() if k not in NOT_INHERITED}
        env = inherited | {MARK: str(folder), "SPIRE_DATA": str(data)} | env
        self.folder, self.out, self.err = folder, folder / "stdout", folder / "stderr"
        self.verb = words[0]
        with self.out.open("w") as out, self.err.open("w") as err:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "pipeline", *words, "--json"],
                cwd=folder,
                env=env,
                stdout=out,
                stderr=err,
                text=True,
                start_new_session=True,
            )

    @property
    def num_rounds(self) -> int:
        """The rounds that have been recorded so far."""
        run_dirs = [path.parent for path in self.folder.glob(f"runs/*/{RECORD}")]
        points = [metrics for run_dir in run_dirs for _, metrics in read_points(run_dir)]
        return sum("pretrain/loss" in metrics for metrics in points)

    def wait_until(self, is_true: Callable[[], bool], limit_s: float) -> None:
        """Wait; Missed, with what the command said, if it ends before or takes too long."""
        end = time.monotonic() + limit_s
        while not is_true():
            if self.process.poll() is not None or time.monotonic() > end:
                raise Missed(self.err.read_text())
            time.sleep(0.05)

    def processes(self, name: str) -> list[psutil.Process]:
        """Return the processes of the command's Ray with a name, or of its actors of a class."""
        found = []
        with contextlib.suppress(psutil.NoSuchProcess):
            for child in psutil.Process(self.process.pid).children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    title = "".join(child.cmdline()[:1])
                    if child.name() == name or title.startswith(f"ray::{name}"):
                        found.append(child)
        return sorted(found, key=lambda process: process.pid)

    def end(self, limit_s: float) -> tuple[int, str]:
        """Wait; return the exit code and the command's sentence.

        Ray's library may write to stderr after it. Without a sentence, all of stderr is returned.
        """
        code, said = self.process.wait(limit_s), self.err.read_text()
        ends = (f"spire {self.verb}: ", "spire: ")
        return code, ([line for line in said.splitlines() if line.startswith(ends)] or [said])[-1]

    def left_behind(self, limit_s: float) -> list[psutil.Process]:
        """Return the processes that still run after a while."""
        end = time.monotonic() + limit_s
        while (running := marked(str(self.folder))) and time.monotonic() < end:
            time.sleep(0.1)
        return running

    def kill(self) -> None:
        """End all of its processes, also those that Ray has put into sessions of their own."""
        for process in marked(str(self.folder)):
            with contextlib.suppress(psutil.Error):
                process.kill()
        self.process.wait()
