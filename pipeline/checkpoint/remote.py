"""Copies of runs on a storage that survives this machine: S3, GCS, a network share.

Below `<tracking.storage>/<run id>/` lie files of the run's folder under the same names. They go
there by name: the files of a checkpoint, artifacts, the record, the outbox, and then the manifest.
Keys, the list of scored clients, locks and profiles never do. The file systems are pyarrow's.
"""

import contextlib
import io
import logging
import os
import re
import shutil
import time
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.checkpoint.checkpointer import in_background
from pipeline.checkpoint.snapshots import checkpoint_names, folder_of, kept_names, kept_rounds
from pipeline.config.schema import Config
from pipeline.config.tracking import TrackingConfig, tracking_root
from pipeline.files.atomic import room_for, sync, sync_tree
from pipeline.files.paths import error_line, mask
from pipeline.runs.layout import (
    ARTIFACTS,
    CHECKPOINTS,
    CLIENTS,
    DONE,
    EVALUATIONS,
    MANIFEST,
    OUTBOX,
    RECORD,
    REFUSED,
    RUNS,
)
from pipeline.runs.record import run_lock
from spire_core.errors import ConfigError, RunError

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

GROWING = (RECORD, DONE, REFUSED, OUTBOX)  # sent again as they change, the outbox read last
OF_CHECKPOINTS = (CLIENTS, EVALUATIONS, CHECKPOINTS)
STORAGE_ERRORS = (OSError, NotImplementedError)  # of pyarrow's file systems
OBJECT_STORES = ("s3", "gcs", "abfs")  # where files appear atomically, and there are no folders
CHUNK_BYTES = 1 << 24
_log = logging.getLogger(__name__)


# --- storages ---


def open_storage(uri: str) -> tuple["FileSystem", str]:
    """Return the storage of a URI and the path in it; ConfigError for an unusable URI."""
    from pyarrow.fs import FileSystem

    try:
        return FileSystem.from_uri(uri)
    except (*STORAGE_ERRORS, ValueError) as error:
        raise ConfigError(
            f"expected a storage such as s3://BUCKET/FOLDER or file:///FOLDER, got {mask(uri)!r} "
            f"({error_line(error)}): correct it"
        ) from error


def check_storage(config: TrackingConfig) -> tuple["FileSystem", str] | None:
    """Return `tracking.storage` as `open_storage` does, None if there is none.

    ConfigError if it is unusable, or among the root's runs, of which a copy would delete files.
    """
    if config.storage is None:
        return None
    storage, folder = open_storage(config.storage)
    runs, real = tracking_root(config) / RUNS, Path(os.path.realpath(folder))
    if storage.type_name == "local" and real.is_relative_to(os.path.realpath(runs)):
        raise ConfigError(
            f"expected tracking.storage outside of {runs}, where the runs are, got {folder}: "
            "choose another folder for their copies, or null"
        )
    return storage, folder


def mirror_of(run_dir: Path, config: Config) -> "Mirror | None":
    """Return the mirror that a configuration asks for, or None; ConfigError if it cannot be.

    A private run has none. Its copy could not go on without the noise key, which stays here, and
    the names of its files would tell who took part.
    """
    opened = check_storage(config.tracking)
    if opened is None or config.privacy.is_on:
        return None
    storage, folder = opened
    return Mirror(run_dir, storage, f"{folder.rstrip('/')}/{run_dir.name}")


def storage_of(uri: str, run_dir: Path) -> str | None:
    """Return the storage in which a URI `<storage>/<run id>` means a copy of a run.

    None if the URI means the run's own folder.
    """
    is_local = uri.startswith("file:")
    if is_local and os.path.realpath(open_storage(uri)[1]) == os.path.realpath(run_dir):
        return None
    address, sep, query = uri.partition("?")
    return address.rstrip("/").rpartition("/")[0] + sep + query


def _names_at(storage: "FileSystem", folder: str) -> list[str]:
    """Return the names of all files below a folder."""
    from pyarrow.fs import FileSelector, FileType

    found = storage.get_file_info(FileSelector(folder, recursive=True, allow_not_found=True))
    above = f"{folder.rstrip('/')}/"
    return sorted(info.path.removeprefix(above) for info in found if info.type == FileType.File)


# --- there ---


class Mirror:
    """Uploads a run's newest checkpoints to a storage, one at a time, while rounds go on.

    A failed upload is logged, counted in `num_failed`, and made up for by the next checkpoint's.
    The process can end while a storage does not answer.
    """

    def __init__(self, run_dir: Path, storage: "FileSystem", folder: str) -> None:
        """Take the run's folder, and the folder of the same content at a storage."""
        self.run_dir, self.storage, self.folder = run_dir, storage, folder
        self.num_failed = 0
        self.last_done: int | None = None  # rounds of the newest uploaded checkpoint
        self._sent: dict[str, tuple[int, int]] = {}  # size, and time of change or hash, by name
        self._running: tuple[int, Future[None]] | None = None  # rounds done, and the upload's end

    @property
    def pinned_rounds(self) -> tuple[int, ...]:
        """The checkpoint that is being uploaded, and must not change."""
        running = self._running
        return () if running is None or running[1].done() else (running[0],)

    def begin(self, num_rounds_done: int) -> None:
        """Begin to upload a checkpoint; skip it if another upload is running."""
        if not self.pinned_rounds:
            uploaded = in_background(partial(self._try, num_rounds_done), "mirror")
            self._running = num_rounds_done, uploaded

    def close(self, limit_s: float) -> None:
        """Wait for a running upload, and upload the newest checkpoint if that was another.

        What has not ended after `limit_s` seconds counts as failed, though it goes on for as long
        as this process lives.
        """
        end = time.monotonic() + limit_s
        self._wait(limit_s)
        newest = max(kept_rounds(self.run_dir), default=None)
        if newest is not None and newest != self.last_done:
            self.begin(newest)
            self._wait(end - time.monotonic())
            if self.pinned_rounds:
                self._failed(newest, f"nothing after {limit_s:g} s")

    def _wait(self, limit_s: float) -> None:
        if self._running is not None:
            with contextlib.suppress(TimeoutError):  # that of an upload itself is none here
                self._running[1].result(max(0.0, limit_s))

    def _try(self, num_rounds_done: int) -> None:
        try:
            self.upload(num_rounds_done)
        except (*STORAGE_ERRORS, ValueError) as error:
            self._failed(num_rounds_done, error_line(error))

    def _failed(self, num_rounds_done: int, reason: str) -> None:
        self.num_failed += 1
        newest = "none" if self.last_done is None else f"that after round {self.last_done}"
        text = "the checkpoint after round %d is not at %s (%s): the newest there is %s"
        _log.warning(text, num_rounds_done, mask(self.folder), reason, newest)

    def upload(self, num_rounds_done: int) -> None:
        """Upload a checkpoint with all files that a resume needs, and drop obsolete ones.

        Unchanged files are not sent again. Passes on the errors of the storage.
        """
        *names, manifest = checkpoint_names(folder_of(self.run_dir, num_rounds_done))
        # Read before the artifacts are listed: then each file that an entry names is among them.
        growing = {n: path.read_bytes() for n in GROWING if (path := self.run_dir / n).is_file()}
        artifacts = [p for p in sorted((self.run_dir / ARTIFACTS).rglob("*")) if p.is_file()]
        for name in (*names, *(path.relative_to(self.run_dir).as_posix() for path in artifacts)):
            self._send(name)
        for name, content in growing.items():
            self._send(name, content)
        self._send(manifest)
        self.last_done = num_rounds_done
        self._prune()

    def _send(self, name: str, content: bytes | None = None) -> None:
        """Send a file, or the content that it had, unless it is there."""
        path, target = self.run_dir / name, f"{self.folder}/{name}"
        stat, is_object = path.stat(), self.storage.type_name in OBJECT_STORES
        mark = (stat.st_size, stat.st_mtime_ns)
        if content is not None:
            mark = (len(content), hash(content))
        if self._sent.get(name) == mark:
            return
        if not is_object:
            self.storage.create_dir(target.rpartition("/")[0], recursive=True)
        part = target if is_object else f"{target}.part"
        source = path.open("rb") if content is None else io.BytesIO(content)
        with source, self.storage.open_output_stream(part) as stream:
            shutil.copyfileobj(source, stream, CHUNK_BYTES)
        if not is_object:
            self.storage.move(part, target)
        self._sent[name] = mark

    def _prune(self) -> None:
        """Drop the files that no kept checkpoint needs, manifests first."""
        there = [
            n for n in _names_at(self.storage, self.folder) if n.split("/")[0] in OF_CHECKPOINTS
        ]
        dropped = sorted(
            {*there} - kept_names(self.run_dir), key=lambda n: not n.endswith(MANIFEST)
        )
        for name in dropped:
            self.storage.delete_file(f"{self.folder}/{name}")
            self._sent.pop(name, None)
        if self.storage.type_name not in OBJECT_STORES:
            for folder in {n.rpartition("/")[0] for n in dropped if n.startswith(CHECKPOINTS)}:
                self.storage.delete_dir(f"{self.folder}/{folder}")


# --- and back ---


def restore(uri: str, config: TrackingConfig, say: Callable[[str], None]) -> Path:
    """Bring a run from `<storage>/<run id>` to this machine and return its folder.

    One that is here already is used as it is. ConfigError if the URI cannot be opened, RunError if
    there is no run at it, BusyError if another process brings it right now.
    """
    storage, path = open_storage(uri)
    try:
        names = _names_at(storage, path)
        run_id = path.rstrip("/").rpartition("/")[2]
        if RECORD not in names or not re.fullmatch("[0-9a-f]{32}", run_id):
            raise RunError(
                f"expected a run at {mask(uri)}, got {len(names)} files and no {RECORD}: name it "
                "as <tracking.storage>/<run id>"
            )
        run_dir = tracking_root(config) / RUNS / run_id
        with room_for(run_dir):
            run_dir.mkdir(parents=True, exist_ok=True)
            with run_lock(run_dir):
                if (run_dir / RECORD).is_file():
                    say(f"run {run_id} is here already, in {run_dir}: it goes on from there")
                    return run_dir
                wanted = (ARTIFACTS, *OF_CHECKPOINTS, *GROWING)
                for name in names:
                    if name.split("/")[0] in wanted and name != RECORD:
                        _bring(storage, f"{path.rstrip('/')}/{name}", run_dir / name)
                sync_tree(run_dir)
                _bring(storage, f"{path.rstrip('/')}/{RECORD}", run_dir / RECORD)  # a run from now
                sync(run_dir)
    except STORAGE_ERRORS as error:
        raise RunError(
            f"expected to read the run at {mask(uri)}, got {error_line(error)}: check the address "
            "and who may read it"
        ) from error
    say(f"run {run_id} was brought from {mask(uri)} to {run_dir}")
    return run_dir


def _bring(storage: "FileSystem", source: str, target: Path) -> None:
    """Copy a file to this machine, atomically and durably."""
    from pyarrow.fs import copy_files

    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.part")
    copy_files(source, str(part), source_filesystem=storage)
    sync(part)
    part.replace(target)
