"""Storages that survive this machine: S3, GCS, a network share.

The only file that imports file systems of pyarrow, which are those of Ray Tune.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.config.tracking import TrackingConfig, tracking_root
from pipeline.files.masking import error_line, mask
from pipeline.runs.layout import RUNS
from spire_core.errors import ConfigError, RunError

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem


def open_storage(uri: str) -> tuple["FileSystem", str]:
    """Return the storage of a URI and the path in it; ConfigError for an unusable URI."""
    from pyarrow.fs import FileSystem

    try:
        return FileSystem.from_uri(uri)
    except (*storage_errors(), ValueError) as error:
        raise ConfigError(
            f"expected a storage such as s3://BUCKET/FOLDER or file:///FOLDER, got {mask(uri)!r} "
            f"({error_line(error)}): correct it"
        ) from error


def storage_errors() -> tuple[type[Exception], ...]:
    """Return the errors that a storage raises."""
    import pyarrow

    return OSError, pyarrow.ArrowException


@contextlib.contextmanager
def reading_run(uri: str) -> Iterator[None]:
    """Raise RunError for an error of the storage in the block."""
    try:
        yield
    except storage_errors() as error:
        raise RunError(
            f"expected to read the run at {mask(uri)}, got {error_line(error)}: check the address "
            "and who may read it"
        ) from error


def names_at(storage: "FileSystem", folder: str) -> list[str]:
    """Return the names of all files below a folder."""
    from pyarrow.fs import FileSelector, FileType

    found = storage.get_file_info(FileSelector(folder, recursive=True, allow_not_found=True))
    above = f"{folder.rstrip('/')}/"
    return sorted(info.path.removeprefix(above) for info in found if info.type == FileType.File)


def check_storage(config: TrackingConfig) -> None:
    """Raise ConfigError if `tracking.storage` is set and unusable, or among the root's runs."""
    if config.storage is not None:
        refuse_runs_at(*open_storage(config.storage), tracking_root(config) / RUNS)


def refuse_runs_at(storage: "FileSystem", folder: str, runs: Path) -> None:
    """Raise ConfigError if a storage's folder is that of runs on this machine, or below it.

    A mirror there would delete files of the runs themselves.
    """
    real = Path(os.path.realpath(folder))
    if storage.type_name == "local" and real.is_relative_to(os.path.realpath(runs)):
        raise ConfigError(
            f"expected tracking.storage outside of {runs}, where the runs are, got {folder}: "
            "choose another folder for their copies, or null"
        )


def storage_of(uri: str, run_dir: Path) -> str | None:
    """Return the storage in which a URI `<storage>/<run id>` means a copy of a run.

    None if the URI means the run's own folder.
    """
    is_local = uri.startswith("file:")
    if is_local and os.path.realpath(open_storage(uri)[1]) == os.path.realpath(run_dir):
        return None
    address, sep, query = uri.partition("?")
    return address.rstrip("/").rpartition("/")[0] + sep + query
