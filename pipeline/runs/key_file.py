"""A file with a secret key: its owner alone can read it, and it is overwritten before it goes."""

import contextlib
import os
from pathlib import Path

from spire_core.errors import RunError


def write_key(path: Path, key: bytes) -> None:
    """Write a key durably, with a mode that admits nobody else at any moment."""
    part = path.with_name(f"{path.name}.part")
    part.unlink(missing_ok=True)  # of a process that was killed here: it has been used nowhere
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(key)
        file.flush()
        os.fsync(file.fileno())
    part.rename(path)


def read_key(path: Path, num_bytes: int, name: str, remedy: str) -> bytes:
    """Return a key; RunError, with its name and the remedy, if it is gone or damaged.

    One of zeros is gone: `drop_key` was interrupted.
    """
    key = path.read_bytes() if path.is_file() else b""
    if not any(key):
        key = b""
    if len(key) != num_bytes:
        raise RunError(
            f"expected a {name} of {num_bytes} bytes in {path}, got {len(key)}: {remedy}"
        )
    return key


def drop_key(path: Path) -> None:
    """Delete a key, if it is there: overwritten first, as far as the disk allows it."""
    with contextlib.suppress(FileNotFoundError):  # or if another process deletes it too
        with path.open("r+b") as file:
            file.write(bytes(os.fstat(file.fileno()).st_size))
            file.flush()
            os.fsync(file.fileno())
        path.unlink()
