"""A run's checkpoints: the server's state after some rounds, whole on disk or not there at all.

A checkpoint is a folder `checkpoints/<rounds done>/` with `server.safetensors` and, written last,
`manifest.json` with the SHA-256 of that file. The clients' states lie beside it on the clients'
side, round by round (`client_store.py`): those that a kept checkpoint needs are kept there.
Nothing in a checkpoint runs code when it is read.
"""

import dataclasses
import hashlib
import json
import logging
import os
import shutil
import uuid
from pathlib import Path

from safetensors.numpy import load_file, save_file

from pipeline.reading import DAMAGE, read_object
from spire_core.errors import RunError
from spire_core.server import ServerState

STATE, MANIFEST = "server.safetensors", "manifest.json"
_log = logging.getLogger(__name__)


def save_checkpoint(run_dir: Path, state: ServerState, fingerprint: str, keep: int) -> None:
    """Write the state after `state.round_idx` rounds, and drop all but the newest `keep`.

    `fingerprint` is that of the pre-training's settings, which a reader compares.
    """
    folder = run_dir / "checkpoints"
    part = folder / f".{uuid.uuid4().hex}.part"
    part.mkdir(parents=True)
    try:
        arrays = {
            f.name: value
            for f in dataclasses.fields(state)
            if f.name != "round_idx" and (value := getattr(state, f.name)) is not None
        }
        save_file(arrays, part / STATE)
        _sync(part / STATE)
        manifest = {"round_idx": state.round_idx, "pretrain_fingerprint": fingerprint}
        manifest |= {"sha256": {STATE: _sha256(part / STATE)}}
        (part / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")
        _sync(part / MANIFEST)
        target = folder / f"{state.round_idx:07d}"
        shutil.rmtree(target, ignore_errors=True)  # a damaged one, written before a crash
        part.rename(target)
        _sync(folder)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    for old in checkpoints(run_dir)[:-keep]:
        shutil.rmtree(old)


def checkpoints(run_dir: Path) -> list[Path]:
    """Return the folders of a run's checkpoints, oldest first."""
    return sorted(p for p in (run_dir / "checkpoints").glob("*") if p.name.isdecimal())


def kept_rounds(run_dir: Path) -> tuple[int, ...]:
    """Return after how many rounds the checkpoints that exist were taken."""
    return tuple(int(path.name) for path in checkpoints(run_dir))


def newest_checkpoint(run_dir: Path, fingerprint: str) -> ServerState | None:
    """Return the newest complete state, or None; a damaged one is named and the one before taken.

    RunError if the checkpoint belongs to other settings.
    """
    for path in reversed(checkpoints(run_dir)):
        try:
            state, stored = _read(path)
        except DAMAGE as error:
            _log.warning(
                "the checkpoint %s is damaged (%s): the one before it is used", path, error
            )
            continue
        if stored != fingerprint:
            raise RunError(
                f"expected a checkpoint of these settings in {path}, got one of others: "
                "start a new run instead"
            )
        return state
    return None


def _read(path: Path) -> tuple[ServerState, str]:
    manifest = read_object(path / MANIFEST)
    if _sha256(path / STATE) != manifest["sha256"][STATE]:
        raise ValueError(f"{STATE} is not what was written")
    if manifest["round_idx"] != int(path.name):
        raise ValueError(f"it is of round {manifest['round_idx']}")
    state = ServerState(round_idx=manifest["round_idx"], **load_file(path / STATE))
    return state, manifest["pretrain_fingerprint"]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    """Make a file or a folder's entries survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
