"""The commit of the running code."""

import subprocess
from pathlib import Path


def git_revision(source: Path = Path(__file__)) -> str | None:
    """Return the short commit of the checkout of `source`, plus "-dirty" if a file has changed.

    None if there is no git, or no checkout that tracks `source` (as with an installed copy).
    """

    def git(*args: str) -> str | None:
        command = ["git", "-C", str(source.resolve().parent), *args]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    if git("ls-files", "--error-unmatch", source.name) is None:
        return None
    return git("describe", "--always", "--dirty", "--exclude=*")
