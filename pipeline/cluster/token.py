"""The token of local clusters, in a file that only its owner can read.

Ray would write it with the rights of any new file. Whoever has the token can run code as the user.
"""

import contextlib
import os
import secrets
import tempfile
from pathlib import Path

OWN_TOKEN = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")  # take the place of the file


def token_path() -> Path:
    """Return the file in which Ray looks for the token."""
    return Path.home() / ".ray" / "auth_token"


def keep_token_private() -> None:
    """Create the token before a local cluster starts, or take its file's rights from others.

    Nothing happens if the user has chosen another token or another way of authentication. A home
    that cannot be written is left for Ray to name.
    """
    if os.environ.get("RAY_AUTH_MODE", "token").lower() != "token":
        return
    if any(name in os.environ for name in OWN_TOKEN):
        return
    with contextlib.suppress(OSError, RuntimeError):
        path = token_path()
        if not path.exists():
            _create(path)
        path.chmod(0o600)


def _create(path: Path) -> None:
    """Write a new token, unless another process is faster; no reader sees half of one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent)  # with mode 0600
    try:
        with os.fdopen(handle, "w") as file:
            file.write(secrets.token_hex(32))
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(name, path)
    finally:
        os.unlink(name)
