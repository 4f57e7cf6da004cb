"""The commit of the running code."""

import subprocess
from pathlib import Path

HERE = Path(__file__)
REVISION = "git_revision"  # the tag with the commit of the code that scored a run


def git_revision(source: Path = HERE) -> str | None:
    """Return the short commit of the checkout of `source`, plus "-dirty" if a file has changed.

    None if there is no git, or no checkout that tracks `source` (as with an installed copy).
    """
    return _git(source, "describe", "--always", "--dirty", "--exclude=*")


def running_code() -> str:
    """Return the commit of the running code as a tag has it, "unknown" if it is not known."""
    return git_revision() or "unknown"


def git_commit(source: Path = HERE) -> str | None:
    """Return the whole name of the commit of the checkout of `source`, or None as above."""
    return _git(source, "rev-parse", "HEAD")


def _git(source: Path, *args: str) -> str | None:
    """Return the answer of git if it tracks `source`."""

    def answer(*args: str) -> str | None:
        command = ["git", "-C", str(source.resolve().parent), *args]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    is_tracked = answer("ls-files", "--error-unmatch", source.name) is not None
    return answer(*args) if is_tracked else None
