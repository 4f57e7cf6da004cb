"""Files that are written atomically and read with a check; locks; the errors of a disk.

A file that was cut off, has flipped bits or holds other content raises nearly any error in the
library that reads it; `DAMAGE` is that family, with a missing file. A file that the system refuses
for another reason, such as a missing right or a share that does not answer, may be intact.
"""

import contextlib
import errno
import fcntl
import json
import logging
import os
import struct
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from safetensors import SafetensorError

from spire_core.errors import FormatError, RunError

FORMAT = 3  # of a run's files: raise it when one changes; files of other formats are not read
FORMAT_KEY = "run_format"
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
GONE = (FileNotFoundError, NotADirectoryError, IsADirectoryError)
DAMAGE = (*GONE, EOFError, RecursionError, SafetensorError, struct.error, ValueError, TypeError)
DAMAGE += (KeyError, IndexError, AttributeError, ArithmeticError)
GO_BACK = "resume the run, which goes back to a checkpoint whose files are whole"
_log = logging.getLogger(__name__)


class DamagedError(RunError):
    """A file is missing, or its content is not the one that was written."""


# --- writing ---


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


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write values atomically and lastingly."""
    write_whole(path, (json.dumps(values, indent=1) + "\n").encode(), is_lasting=True)


def sync(path: Path) -> None:
    """Make a file's content, or a folder's entries, survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Make all files below a folder survive a power cut, and their names."""
    for path in (folder, *folder.rglob("*")):
        sync(path)


@contextlib.contextmanager
def room_for(path: Path, errors: tuple[int, ...] = NO_ROOM) -> Iterator[None]:
    """Turn the system's errors of these numbers, none for all, into a RunError with the path."""
    try:
        yield
    except OSError as error:
        if errors and error.errno not in errors:
            raise
        file = error.filename or path
        what, advice = f"a run's folder in which {file} can be written", "see to it"
        if error.errno in NO_ROOM:
            what, advice = f"room for {file}", "free some"
        raise RunError(
            f"expected {what}, got {error.strerror or str(error)!r}: {advice} and resume the run, "
            "which goes on from its last checkpoint"
        ) from error


# --- reading ---


@contextlib.contextmanager
def reading(what: str, path: Path, advice: str) -> Iterator[None]:
    """Turn an error of damage inside the block into a DamagedError with the file and the advice.

    RunError if the file cannot be read now.
    """
    try:
        yield
    except DAMAGE as error:
        reason = str(error) or type(error).__name__
        reason = f"no {reason}" if isinstance(error, KeyError) else reason
        raise DamagedError(f"expected {what} in {path}, got {reason}: {advice}") from error
    except (OSError, MemoryError) as error:
        reason = str(error) or "too little memory"
        raise RunError(
            f"expected {what} in {path}, got {reason}: try again when it can be read"
        ) from error


def read_object(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file.

    Raises one of DAMAGE for any other content, and FormatError if it is of another format.
    """
    stored = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(stored, dict):
        raise TypeError(f"{stored!r:.50} for an object")
    check_format(stored, path)
    return stored


def read_json(path: Path) -> dict[str, Any] | None:
    """Return the JSON object in a file, None if it is missing or, with a warning, damaged."""
    try:
        return read_object(path)
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, RecursionError) as error:
        _log.warning("damaged: %s is passed over: %s", path, error)
        return None


def check_format(stored: Mapping[str, Any], path: Path) -> None:
    """Raise FormatError if the values in a file, or its header, are of another format."""
    number = int(stored.get(FORMAT_KEY, FORMAT))
    if number != FORMAT:
        age = "a newer" if number > FORMAT else "an earlier"
        raise FormatError(
            f"expected a file of format {FORMAT} in {path}, got format {number}, of {age} version: "
            "use that version, or start a new run (nothing was deleted)"
        )


# --- a lock ---


def try_lock(file: IO[str]) -> bool:
    """Return whether an open file is now locked by this process alone, until it is closed."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
