"""The way back of a run from its copy on a storage (`remote`) to this machine. It runs no code."""

import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.checkpoint.remote import CHUNK_BYTES, FOLDERS, SINGLE
from pipeline.checkpoint.storage import names_at, open_storage, reading_run
from pipeline.config.tracking import TrackingConfig, tracking_root
from pipeline.files.atomic import room_for, sync, sync_tree
from pipeline.files.masking import mask
from pipeline.runs.folder import run_lock
from pipeline.runs.layout import LOCK, RECORD
from spire_core.errors import RunError

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem


def restore(uri: str, config: TrackingConfig, say: Callable[[str], None]) -> Path:
    """Bring a run from `<storage>/<run id>` to this machine and return its folder.

    One that is here already is used as it is. ConfigError if the URI cannot be opened, RunError if
    there is no run at it, BusyError if another process brings it right now.
    """
    storage, path = open_storage(uri)
    with reading_run(uri):
        names = names_at(storage, path)
    run_id = path.rstrip("/").rpartition("/")[2]
    if RECORD not in names or not re.fullmatch("[0-9a-f]{32}", run_id):
        raise RunError(
            f"expected a run at {mask(uri)}, got {len(names)} files and no {RECORD}: name it as "
            "<tracking.storage>/<run id>"
        )
    run_dir = tracking_root(config) / "runs" / run_id
    here = f"run {run_id} is here already, in {run_dir}: it goes on from there"
    if (run_dir / RECORD).is_file():
        say(here)
        return run_dir
    part = run_dir.with_name(f".{run_id}.part")
    part.mkdir(parents=True, exist_ok=True)
    with run_lock(part):
        if (run_dir / RECORD).is_file():  # of a process that had the lock
            say(here)
            return run_dir
        _empty(part)
        try:
            _bring(storage, path, names, part, uri)
            part.rename(run_dir)
            sync(run_dir.parent)
        except BaseException:
            _empty(part)
            raise
    say(f"run {run_id} was brought from {mask(uri)} to {run_dir}")
    return run_dir


def _bring(storage: "FileSystem", folder: str, names: Sequence[str], part: Path, uri: str) -> None:
    """Copy a run's files to a folder on this machine, durably."""
    for name in sorted(names, key=lambda name: name == RECORD):  # by which it is known as one
        if name in SINGLE or (name.split("/")[0] in FOLDERS and not name.endswith(".part")):
            target = part / name
            with reading_run(uri), room_for(target):
                target.parent.mkdir(parents=True, exist_ok=True)
                source = storage.open_input_stream(f"{folder.rstrip('/')}/{name}")
                with source, target.open("wb") as file:
                    shutil.copyfileobj(source, file, CHUNK_BYTES)
    sync_tree(part)  # it counts as here from now on


def _empty(part: Path) -> None:
    """Drop what a restore that did not end has brought, without its lock."""
    for path in part.glob("*"):
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != LOCK:
            path.unlink()
