"""Paths that outlive the process, also in a submitted Ray job.

A job runs in a copy of the working directory that Ray deletes afterwards.
"""

import os
from pathlib import Path

from spire_core.errors import ConfigError

JOB_MARK = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # set by Ray for the entrypoint of a job only
JOB_BASE = "~/spire"


def is_ray_job() -> bool:
    """Return whether this process belongs to the entrypoint of a submitted Ray job."""
    return JOB_MARK in os.environ


def base_folder() -> Path:
    """Return the absolute folder for runs and data: $SPIRE_ROOT, or here, or in a job ~/spire."""
    given = os.environ.get("SPIRE_ROOT")
    return lasting(given, "SPIRE_ROOT") if given else lasting(JOB_BASE if is_ray_job() else ".")


def lasting(path: str | Path, name: str = "the folder") -> Path:
    """Return an absolute path; ConfigError if it is relative in a job, whose folder is deleted."""
    found = expanded(path, name)
    if is_ray_job() and not found.is_absolute():
        raise ConfigError(
            f"expected {name} as an absolute path in a Ray job, got {str(path)!r}: the job's "
            "working directory is a copy that Ray deletes, so name a folder that lasts"
        )
    return found.resolve()


def expanded(path: str | Path, name: str = "the path") -> Path:
    """Return a path with its ~ or ~user replaced; ConfigError if there is no such home."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise ConfigError(
            f"expected {name} below a home that exists, got {str(path)!r}: write it in full"
        ) from error
