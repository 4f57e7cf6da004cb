"""Paths that outlive the process, addresses without passwords, and the commit of the code."""

import os
import re
import subprocess
from pathlib import Path

from spire_core.errors import ConfigError

JOB_MARK = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # set by Ray for the entrypoint of a job only
HERE = Path(__file__)
REVISION = "git_revision"  # the tag with the commit of the code that scored a run
_PASSWORD = r"(://[^\s/:@\"']*:)[^\s\"']*(?=@)"
_KEY = r"(noise_key=)(?:\\?\"[^\"]*\"|'[^']*'|[^\s\"'\\]+)"  # in quotes, or in those of JSON
_SECRET = re.compile(f"{_PASSWORD}|{_KEY}")


# --- paths, also in a submitted Ray job: it runs in a copy of the folder that Ray deletes ---


def is_ray_job() -> bool:
    """Return whether this process belongs to the entrypoint of a submitted Ray job."""
    return JOB_MARK in os.environ


def base_folder() -> Path:
    """Return the absolute folder for runs and data: $SPIRE_ROOT, or here, or in a job ~/spire."""
    given = os.environ.get("SPIRE_ROOT")
    return lasting(given, "SPIRE_ROOT") if given else lasting("~/spire" if is_ray_job() else ".")


def lasting(path: str | Path, name: str = "the folder") -> Path:
    """Return an absolute path; ConfigError if it is relative in a job, whose folder is deleted."""
    found = Path(path).expanduser()
    if is_ray_job() and not found.is_absolute():
        raise ConfigError(
            f"expected {name} as an absolute path in a Ray job, got {str(path)!r}: the job's "
            "working directory is a copy that Ray deletes, so name a folder that lasts"
        )
    return found.resolve()


# --- texts that are shown or stored: without the passwords of URIs, or a given noise key ---


def mask(text: str) -> str:
    """Return a text with `***` in place of the passwords of its URIs (`://user:***@host`)."""
    return _SECRET.sub(r"\1\2***", text)


def error_line(error: BaseException) -> str:
    """Return an error's message as one line, without passwords."""
    return mask(" ".join(str(error).split()) or repr(error))[:300]


# --- the commit of the running code ---


def git_revision(source: Path = HERE) -> str:
    """Return the short commit of the checkout of `source`, plus "-dirty" if a file has changed.

    "unknown" if there is no git, or no checkout that tracks `source` (as with an installed copy).
    """
    try:
        _git(source, "ls-files", "--error-unmatch", source.name)
        return _git(source, "describe", "--always", "--dirty", "--exclude=*")
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def _git(source: Path, *args: str) -> str:
    command = ["git", "-C", str(source.resolve().parent), *args]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    return done.stdout.strip()
