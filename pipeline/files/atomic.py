"""Atomic and durable files, locks, and the error of a full disk."""

import contextlib
import errno
import fcntl
import logging
import math
import os
import platform
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from spire_core.errors import RunError

MANY_FILES = 200  # to bring to the disk, each by itself
NOTICE_S = 30.0  # before it is said who holds a lock
POLL_S = 0.2  # between two looks at it
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_log = logging.getLogger(__name__)


def write_whole(path: Path, content: bytes, is_lasting: bool = False) -> None:
    """Write a file atomically; `is_lasting`: its content reaches the disk before its name does.

    RunError if there is no room; then nothing is left behind.
    """
    with room_for(path):
        replace_file(path, content, is_lasting)


def replace_file(path: Path, content: bytes, is_lasting: bool = False) -> None:
    """Do what `write_whole` does, with the system's own error of a full disk."""
    part = path.with_name(f"{uuid.uuid4().hex}.part")
    try:
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            if is_lasting:
                os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def sync(path: Path) -> None:
    """Make a file's content, or a folder's entries, survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Make all files below a folder survive a power cut, and their names."""
    paths = [folder, *folder.rglob("*")]
    if len(paths) > MANY_FILES:
        os.sync()  # all that the system holds back, at once
        return
    for path in paths:
        sync(path)


def try_lock(file: IO[str]) -> bool:
    """Return whether an open file is now locked by this process alone, until it is closed."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def sign(file: IO[str]) -> None:
    """Write into a locked file whose it is."""
    file.truncate(0)
    file.write(f"process {os.getpid()} on {platform.node()}\n")
    file.flush()


class LockWait:
    """The wait for a file that another process has locked; it says once who that is."""

    def __init__(self, file: IO[str]) -> None:
        self.file, self._notice = file, time.monotonic() + NOTICE_S

    def pause(self, seconds: float) -> None:
        """Wait until the next look at the lock."""
        if time.monotonic() > self._notice:
            self.file.seek(0)
            holder = self.file.read().strip() or "a process"
            _log.warning("waiting for %s, which holds %s", holder, self.file.name)
            self._notice = math.inf
        time.sleep(seconds)


@contextlib.contextmanager
def held_lock(path: Path) -> Iterator[None]:
    """Hold a lock until the end of a block; waits while a living process has it, and says so."""
    with path.open("a+") as file:
        wait = LockWait(file)
        while not try_lock(file):
            wait.pause(POLL_S)
        sign(file)
        yield


@contextlib.contextmanager
def room_for(path: Path) -> Iterator[None]:
    """Turn the system's error of a full disk into a RunError that names the path."""
    try:
        yield
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        raise RunError(
            f"expected room for {error.filename or path}, got {error.strerror!r}: free some and "
            "resume the run, which goes on from its last checkpoint"
        ) from error


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn every error of the system's, as a file of a run is written, into a RunError."""
    try:
        with room_for(path):
            yield
    except OSError as error:
        raise RunError(
            f"expected a run's folder in which {error.filename or path} can be written, got "
            f"{error.strerror or str(error)!r}: see to it and resume the run, which goes on from "
            "its last checkpoint"
        ) from error
