"""Copies of runs on a storage that survives this machine: S3, GCS, a network share.

Below `<tracking.storage>/<run id>/` lie files of the run's folder under the same names. They go
there by name: the files of a checkpoint, artifacts, the record, the outbox, and then the manifest.
Keys, the list of scored clients, locks and profiles never do. The file systems are pyarrow's.
"""

import logging
import os
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.checkpoint.checkpointer import in_background
from pipeline.checkpoint.snapshots import checkpoint_names, folder_of, kept_names, kept_rounds
from pipeline.config.schema import Config
from pipeline.config.tracking import TrackingConfig, tracking_root
from pipeline.files.atomic import sync, sync_tree
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
from pipeline.runs.record import read_record, run_folders, run_lock
from spire_core.errors import ConfigError, RunError

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

GROWING = (RECORD, DONE, REFUSED, OUTBOX)  # sent again as they change, the outbox read last
OF_CHECKPOINTS = (CLIENTS, EVALUATIONS, CHECKPOINTS)
STORAGE_ERRORS = (OSError, NotImplementedError)  # of pyarrow's file systems
OBJECT_STORES = ("s3", "gcs", "abfs")  # where files appear atomically, and there are no folders
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
    return Mirror(run_dir, storage, f"{folder.rstrip('/')}/{read_record(run_dir)['run_id']}")


def storage_of(uri: str) -> str:
    """Return the storage in which a URI `<storage>/<run id>` means a copy of a run."""
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
        self._sent = set[str]()  # names of files, none of which changes once it is written
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
            wait([self._running[1]], max(0.0, limit_s))

    def _try(self, num_rounds_done: int) -> None:
        try:
            self.upload(num_rounds_done)
        except (*STORAGE_ERRORS, ValueError) as error:
            self._failed(num_rounds_done, error_line(error))

    def _failed(self, num_rounds_done: int, reason: str) -> None:
        self.num_failed += 1
        _log.warning("checkpoint %d is not at %s (%s)", num_rounds_done, mask(self.folder), reason)

    def upload(self, num_rounds_done: int) -> None:
        """Upload a checkpoint with all files that a resume needs, and drop obsolete ones.

        Unchanged files are not sent again. Passes on the errors of the storage.
        """
        *names, manifest = checkpoint_names(folder_of(self.run_dir, num_rounds_done))
        # Read before the artifacts are listed: then each file that an entry names is among them.
        growing = {n: path.read_bytes() for n in GROWING if (path := self.run_dir / n).is_file()}
        artifacts = [p for p in sorted((self.run_dir / ARTIFACTS).rglob("*")) if p.is_file()]
        for name in (*names, *(path.relative_to(self.run_dir).as_posix() for path in artifacts)):
            self._send_file(name)
        for name, content in growing.items():
            self._send(name, content)
        self._send_file(manifest)
        self.last_done = num_rounds_done
        self._prune()

    def _send_file(self, name: str) -> None:
        """Send a file unless it is there."""
        if name not in self._sent:
            self._send(name, (self.run_dir / name).read_bytes())
            self._sent.add(name)

    def _send(self, name: str, content: bytes) -> None:
        target, is_object = f"{self.folder}/{name}", self.storage.type_name in OBJECT_STORES
        if not is_object:
            self.storage.create_dir(target.rpartition("/")[0], recursive=True)
        part = target if is_object else f"{target}.part"
        with self.storage.open_output_stream(part) as stream:
            stream.write(content)
        if not is_object:
            self.storage.move(part, target)

    def _prune(self) -> None:
        """Drop the files that no kept checkpoint needs, manifests first."""
        obsolete = {*_names_at(self.storage, self.folder)} - kept_names(self.run_dir)
        for name in sorted(obsolete, key=lambda name: not name.endswith(MANIFEST)):
            if name.split("/")[0] in OF_CHECKPOINTS:
                self.storage.delete_file(f"{self.folder}/{name}")


# --- and back ---


def restore(uri: str, config: TrackingConfig, say: Callable[[str], None]) -> Path:
    """Bring a run from `<storage>/<run id>` to this machine and return its folder.

    One that is here already is used as it is. ConfigError if the URI cannot be opened, RunError if
    there is no run at it, BusyError if another process brings it right now.
    """
    from pyarrow.fs import copy_files

    storage, path = open_storage(uri)
    folder, run_id = path.rstrip("/"), path.rstrip("/").rpartition("/")[2]
    try:
        names = _names_at(storage, folder)
        if RECORD not in names:
            raise RunError(
                f"expected a run at {mask(uri)}, got {len(names)} files and no {RECORD}: name it "
                "as <tracking.storage>/<run id>"
            )
        here = (one for one in run_folders(config) if read_record(one)["run_id"] == run_id)
        run_dir = next(here, tracking_root(config) / RUNS / run_id)
        run_dir.mkdir(parents=True, exist_ok=True)
        with run_lock(run_dir):
            if (run_dir / RECORD).is_file():
                say(f"run {run_id} is here already, in {run_dir}: it goes on from there")
                return run_dir
            for name in names:
                if name.split("/")[0] in (ARTIFACTS, *OF_CHECKPOINTS, *GROWING):
                    target = run_dir / (name if name != RECORD else f"{RECORD}.part")
                    target.parent.mkdir(parents=True, exist_ok=True)
                    copy_files(f"{folder}/{name}", str(target), source_filesystem=storage)
            sync_tree(run_dir)
            (run_dir / f"{RECORD}.part").rename(run_dir / RECORD)  # it is a run from now on
            sync(run_dir)
    except STORAGE_ERRORS as error:
        raise RunError(
            f"expected to bring the run at {mask(uri)} here, got {error_line(error)}: check the "
            "address, who may read it, and the room on this disk"
        ) from error
    say(f"run {run_id} was brought from {mask(uri)} to {run_dir}")
    return run_dir
