"""Reading files that something else wrote: what a damaged one raises becomes one sentence.

A file that was cut off, has flipped bits or holds something else can raise nearly anything in the
library that reads it; `DAMAGE` is that family.
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

DAMAGE = (
    *(OSError, EOFError, MemoryError, RecursionError, SafetensorError, struct.error, zlib.error),
    *(ValueError, TypeError, KeyError, IndexError, AttributeError, ArithmeticError, SyntaxError),
)
GO_BACK = "resume the run, which goes back to a checkpoint whose files are whole"


@contextlib.contextmanager
def reading(what: str, path: Path, advice: str) -> Iterator[None]:
    """Raise RunError, which names the file and what to do, for whatever damage raises inside."""
    try:
        yield
    except DAMAGE as error:
        told = str(error) or type(error).__name__
        told = f"no {told}" if isinstance(error, KeyError) else told
        raise RunError(f"expected {what} in {path}, got {told}: {advice}") from error


def read_object(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file; raises one of DAMAGE for anything else."""
    stored = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(stored, dict):
        raise TypeError(f"{stored!r:.50} for an object")
    return stored
