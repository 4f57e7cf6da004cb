"""The tags that tell where a run comes from: user, code, and versions of the packages."""

import getpass
import platform
from importlib.metadata import PackageNotFoundError, version

from pipeline.files.paths import git_commit, is_ray_job

PACKAGES = {"spire": "spire-diffusion", "torch": "torch", "ray": "ray", "mlflow": "mlflow"}


def origin_tags() -> dict[str, str]:
    """Return the tags by which MLflow names a run's user and source, and those of `versions`."""
    tags = {
        "mlflow.user": _user(),
        "mlflow.source.name": "spire",
        "mlflow.source.type": "JOB" if is_ray_job() else "LOCAL",
    }
    if (commit := git_commit()) is not None:
        tags["mlflow.source.git.commit"] = commit
    return tags | {f"version.{name}": text for name, text in versions().items()}


def versions() -> dict[str, str]:
    """Return the versions of this project, Python, and the packages that decide a result."""
    found = {name: _version(package) for name, package in PACKAGES.items()}
    return {"python": platform.python_version(), **found}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # a checkout that is not installed
        return "unknown"


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user id without a name
        return "unknown"
