"""Files that are written atomically and read with a check; the errors of a disk.

A file that was cut off, has flipped bits or holds other content raises nearly any error in the
library that reads it; `DAMAGE` is that family, with a missing file. A file that the system refuses
for another reason, such as a missing right or a share that does not answer, may be intact: the
system's own error is passed on.
"""

import contextlib
import json
import os
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from spire_core.errors import FormatError, RunError

FORMAT = 3  # of a run's files: raise it when one changes; files of other formats are not read
FORMAT_KEY = "run_format"
DAMAGE = (FileNotFoundError, NotADirectoryError, IsADirectoryError, SafetensorError)
DAMAGE += (ValueError, TypeError, KeyError, AttributeError)
GO_BACK = "resume the run, which goes back to a checkpoint whose files are whole"


class DamagedError(RunError):
    """A file is missing, or its content is not the one that was written."""


# --- writing ---


def write_whole(path: Path, content: bytes, is_lasting: bool = False) -> None:
    """Write a file atomically; `is_lasting`: its content reaches the disk before its name does.

    RunError if that cannot be done, as on a full disk; then nothing is left behind.
    """
    part = path.with_name(f"{uuid.uuid4().hex}.part")
    with writing(path):
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
def writing(path: Path) -> Iterator[None]:
    """Turn the system's errors into a RunError with the path."""
    try:
        yield
    except OSError as error:
        raise RunError(
            f"expected room for {path} and the right to write it, got "
            f"{error.strerror or str(error)!r}: see to it and resume the run, which goes on from "
            "its last checkpoint"
        ) from error


# --- reading ---


@contextlib.contextmanager
def reading(what: str, path: Path, advice: str) -> Iterator[None]:
    """Turn an error of damage inside the block into a DamagedError with the file and the advice."""
    try:
        yield
    except DAMAGE as error:
        reason = f"no {error}" if isinstance(error, KeyError) else error
        raise DamagedError(f"expected {what} in {path}, got {reason}: {advice}") from error


def read_object(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file.

    Raises one of DAMAGE for any other content, and FormatError if it is of another format.
    """
    stored = json.loads(path.read_text(encoding="utf-8"))
    number = int(stored.get(FORMAT_KEY, FORMAT))
    if number != FORMAT:
        raise FormatError(
            f"expected a file of format {FORMAT} in {path}, got format {number}: use the version "
            "that wrote it, or start a new run (nothing was deleted)"
        )
    return stored
