"""Reading files that something else wrote: what a damaged one raises becomes one sentence.

A file that was cut off, has flipped bits or holds something else can raise nearly anything in the
library that reads it; `DAMAGE` is that family, with a file that is gone. What the system refuses
for another reason, such as a right or a share that does not answer, may be whole the next time.
"""

import contextlib
import json
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from spire_core.errors import RunError

GONE = (FileNotFoundError, NotADirectoryError, IsADirectoryError)
DAMAGE = (
    *(*GONE, EOFError, RecursionError, SafetensorError, struct.error, zlib.error),
    *(ValueError, TypeError, KeyError, IndexError, AttributeError, ArithmeticError, SyntaxError),
)
GO_BACK = "resume the run, which goes back to a checkpoint whose files are whole"


class DamagedError(RunError):
    """A file is gone, or holds something else than was written."""


@contextlib.contextmanager
def reading(what: str, path: Path, advice: str) -> Iterator[None]:
    """Raise DamagedError, which names the file and what to do, for whatever damage raises inside.

    RunError if the file cannot be read now.
    """
    try:
        yield
    except DAMAGE as error:
        told = str(error) or type(error).__name__
        told = f"no {told}" if isinstance(error, KeyError) else told
        raise DamagedError(f"expected {what} in {path}, got {told}: {advice}") from error
    except (OSError, MemoryError) as error:
        raise unreadable(what, path, error) from error


def unreadable(what: str, path: Path, error: Exception) -> RunError:
    """Return what it is to the user that a file, which may be whole, cannot be read now."""
    told = str(error) or "too little memory"
    return RunError(f"expected {what} in {path}, got {told}: try again when it can be read")


def read_object(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file; raises one of DAMAGE for anything else."""
    stored = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(stored, dict):
        raise TypeError(f"{stored!r:.50} for an object")
    return stored
