"""Errors of reading files, as one sentence: damaged files, and files that are unreadable now.

A file that was cut off, has flipped bits or holds other content raises nearly any error in the
library that reads it; `DAMAGE` is that family, with a missing file. A file that the system refuses
for another reason, such as a missing right or a share that does not answer, may be intact.
"""

import contextlib
import json
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from pipeline.files.run_format import check_format
from spire_core.errors import RunError

GONE = (FileNotFoundError, NotADirectoryError, IsADirectoryError)
DAMAGE = (
    *(*GONE, EOFError, RecursionError, SafetensorError, struct.error, zlib.error),
    *(ValueError, TypeError, KeyError, IndexError, AttributeError, ArithmeticError, SyntaxError),
)
GO_BACK = "resume the run, which goes back to a checkpoint whose files are whole"


class DamagedError(RunError):
    """A file is missing, or its content is not the one that was written."""


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
        raise unreadable(what, path, error) from error


def unreadable(what: str, path: Path, error: Exception) -> RunError:
    """Return the error of a file that cannot be read now, and may be intact."""
    reason = str(error) or "too little memory"
    return RunError(f"expected {what} in {path}, got {reason}: try again when it can be read")


def read_object(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file.

    Raises one of DAMAGE for any other content, and FormatError if it is of a newer format.
    """
    stored = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(stored, dict):
        raise TypeError(f"{stored!r:.50} for an object")
    check_format(stored, path)
    return stored
