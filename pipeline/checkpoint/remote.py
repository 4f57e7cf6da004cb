"""A mirror of a run on a storage that survives this machine.

Below `<tracking.storage>/<run id>/` lie the files of the run's folder under the same names. The
manifest of a checkpoint is sent last. The files carry hashes, which a resume checks.
"""

import contextlib
import io
import logging
import shutil
import time
from concurrent.futures import Future, wait
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.checkpoint.manifest import folder_of, read_manifest
from pipeline.checkpoint.snapshots import kept_rounds
from pipeline.checkpoint.storage import (
    names_at,
    open_storage,
    refuse_runs_at,
    storage_errors,
)
from pipeline.config.tracking import TrackingConfig
from pipeline.files.background import in_background
from pipeline.files.masking import error_line, mask
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
    START,
)

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

SINGLE = (RECORD, START, DONE, REFUSED, OUTBOX)  # files that are sent again as they grow
FOLDERS = (ARTIFACTS, CLIENTS, EVALUATIONS, CHECKPOINTS)
WITHOUT_FOLDERS = ("s3", "gcs", "abfs")  # storages where files appear atomically
CHUNK_BYTES = 1 << 24
LONG_UPLOAD_S = 60.0  # may be a storage that does not answer
_log = logging.getLogger(__name__)


@dataclass
class Upload:
    """The upload of a checkpoint, since a `time.monotonic`; whether its length has been logged."""

    num_rounds_done: int
    began: float
    ended: Future[None]
    is_called_long: bool = False


class Mirror:
    """Uploads a run's newest checkpoints to a storage, one at a time, while rounds go on.

    A failed upload is logged, counted in `num_failed`, and retried with the next checkpoint. So is
    one that runs for `LONG_UPLOAD_S` when another is due, though it goes on. The process can end
    while a storage does not answer.
    """

    def __init__(self, run_dir: Path, storage: "FileSystem", folder: str) -> None:
        """Take the run's folder, and the folder of the same content at a storage."""
        self.run_dir, self.storage, self.folder = run_dir, storage, folder.rstrip("/")
        self.num_failed = 0
        self.last_done: int | None = None  # rounds of the newest uploaded checkpoint
        self._sent: dict[str, tuple[int, int]] = {}  # size, and time of change or hash, by name
        self._pending: Upload | None = None
        self._is_last = False  # no upload follows

    @property
    def pinned_rounds(self) -> tuple[int, ...]:
        """The checkpoint that is being uploaded, and must not change."""
        pending = self._pending
        return () if pending is None or pending.ended.done() else (pending.num_rounds_done,)

    def begin(self, num_rounds_done: int) -> None:
        """Begin to upload a checkpoint; skip it if another upload is running."""
        if self._pending is not None and self.pinned_rounds:
            self._skip(num_rounds_done, self._pending)
        else:
            self._start(num_rounds_done)

    def _start(self, num_rounds_done: int) -> None:
        began = time.monotonic()
        ended = in_background(partial(self._try, num_rounds_done), "mirror")
        self._pending = Upload(num_rounds_done, began, ended)

    def _skip(self, num_rounds_done: int, running: Upload) -> None:
        """Log and count, once, an upload that has run for long when another one is due."""
        age_s = time.monotonic() - running.began
        if age_s >= LONG_UPLOAD_S and not running.is_called_long:
            running.is_called_long = True
            earlier = f"that after round {running.num_rounds_done}"
            self._failed(num_rounds_done, f"{earlier} has been on its way for {age_s:.0f} s")

    def close(self, limit_s: float) -> None:
        """Wait for a running upload, and upload the newest checkpoint if that was another.

        What has not ended after `limit_s` seconds counts as failed, though it goes on for as long
        as this process lives.
        """
        end = time.monotonic() + limit_s
        self._wait_until(end)
        self._is_last = True
        newest = max(kept_rounds(self.run_dir), default=None)
        if newest is None or newest == self.last_done:
            return
        if not self.pinned_rounds:
            self._start(newest)
        self._wait_until(end)
        if self.pinned_rounds:
            self._failed(newest, f"nothing after {limit_s:g} s")

    def _wait_until(self, end: float) -> None:
        """Wait for a running upload, until this `time.monotonic` at most; raise an error in it."""
        if self._pending is None:
            return
        for uploaded in wait([self._pending.ended], max(0.0, end - time.monotonic())).done:
            uploaded.result()

    def _try(self, num_rounds_done: int) -> None:
        try:
            self.upload(num_rounds_done)
        except (*storage_errors(), ValueError) as error:
            self._failed(num_rounds_done, error_line(error))

    def _failed(self, num_rounds_done: int, reason: str) -> None:
        self.num_failed += 1
        follows = "tried again at the next one"
        if self._is_last:
            sent = "none" if self.last_done is None else f"that after round {self.last_done}"
            follows = f"it is in the run's folder alone, and the newest that was sent is {sent}"
        text = "the checkpoint after round %d is not at %s (%s): %s"
        _log.warning(text, num_rounds_done, mask(self.folder), reason, follows)

    def upload(self, num_rounds_done: int) -> None:
        """Upload a checkpoint with all files that a resume needs, and drop obsolete ones.

        Unchanged files are not sent again. Passes on the errors of the storage.
        """
        manifest = folder_of(self.run_dir, num_rounds_done) / MANIFEST
        needed = read_manifest(manifest.parent).files(self.run_dir)
        # Read before the artifacts are listed: then each file that an entry names is among them.
        single = [(p, p.read_bytes()) for n in SINGLE if (p := self.run_dir / n).is_file()]
        extra = sorted(p for p in (self.run_dir / ARTIFACTS).glob("**/*") if p.is_file())
        for path in (*needed, *extra):
            self._send(path)
        for path, content in single:
            self._send(path, content)
        self._send(manifest)
        self.last_done = num_rounds_done
        self._prune()

    def _send(self, path: Path, content: bytes | None = None) -> None:
        """Send a file, or the content that it had, unless it is there."""
        name, stat = path.relative_to(self.run_dir).as_posix(), path.stat()
        mark = (stat.st_size, stat.st_mtime_ns)
        if content is not None:
            mark = (len(content), hash(content))
        if self._sent.get(name) == mark:
            return
        target, is_object = f"{self.folder}/{name}", self.storage.type_name in WITHOUT_FOLDERS
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
        needed: set[Path] = set()
        for done in kept_rounds(self.run_dir):
            with contextlib.suppress(ValueError):
                needed |= set(read_manifest(folder_of(self.run_dir, done)).files(self.run_dir))
                needed.add(folder_of(self.run_dir, done) / MANIFEST)
        names = {path.relative_to(self.run_dir).as_posix() for path in needed}
        folders = (CLIENTS, EVALUATIONS, CHECKPOINTS)
        present = [n for n in names_at(self.storage, self.folder) if n.split("/")[0] in folders]
        dropped = sorted(set(present) - names, key=lambda n: not n.endswith(MANIFEST))
        for name in dropped:
            self.storage.delete_file(f"{self.folder}/{name}")
            self._sent.pop(name, None)
        if self.storage.type_name not in WITHOUT_FOLDERS:
            for folder in {n.rpartition("/")[0] for n in dropped if n.startswith(CHECKPOINTS)}:
                self.storage.delete_dir(f"{self.folder}/{folder}")


def mirror_of(run_dir: Path, config: TrackingConfig) -> Mirror | None:
    """Return the mirror that a configuration asks for, or None; ConfigError if it cannot be."""
    if config.storage is None:
        return None
    storage, path = open_storage(config.storage)
    folder = f"{path.rstrip('/')}/{run_dir.name}"
    refuse_runs_at(storage, folder, run_dir.parent)
    return Mirror(run_dir, storage, folder)
