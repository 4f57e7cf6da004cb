"""A run's checkpoints: atomic snapshots of its state after some rounds.

A checkpoint is a folder `checkpoints/<rounds done>/` with the server's `server.safetensors` and,
written last, `manifest.json`. The manifest has the SHA-256 of that file and of itself. It also
lists the files beside the folder that belong to the checkpoint, each of which carries its own hash:
the clients' states, on the clients' side (`clients/store.py`), and the evaluations so far
(`evaluation_store.py`). A checkpoint is good if all of its files are intact. To read it runs no
code.

An unfinished checkpoint is called `checkpoints/.<rounds done>.part`. The folder of the newest
obsolete checkpoint is recycled, so that its file is overwritten in place.
"""

import logging
import shutil
from collections.abc import Callable, Collection
from pathlib import Path

from pipeline.checkpoint.evaluation_store import evaluated_rounds, evaluation_faults
from pipeline.checkpoint.manifest import Manifest, folder_of, read_manifest
from pipeline.clients.store import ClientStore
from pipeline.files.atomic import room_for, sync, write_whole
from pipeline.files.damage import DAMAGE, unreadable
from pipeline.runs.layout import CHECKPOINTS, CLIENTS, MANIFEST, STATE
from pipeline.runs.server_state import file_sha256, read_state
from pipeline.tracking.outbox import sync_outbox
from spire_core.errors import RunError
from spire_core.federated.server import ServerState

SPARE = ".spare.part"
_log = logging.getLogger(__name__)


def new_state_file(run_dir: Path, num_rounds_done: int) -> Path:
    """Return the path for the server's state of a new checkpoint, and make its folder.

    RunError if there is no room.
    """
    part = _part(run_dir, num_rounds_done)
    try:
        part.with_name(SPARE).rename(part)
    except FileNotFoundError:
        with room_for(part):
            part.mkdir(parents=True, exist_ok=True)
    return part / STATE


def _part(run_dir: Path, num_rounds_done: int) -> Path:
    return run_dir / CHECKPOINTS / f".{num_rounds_done:07d}.part"


def save_checkpoint(
    run_dir: Path,
    num_rounds_done: int,
    written: Callable[[], int],
    fingerprint: str,
    keep: int,
    pinned_rounds: Collection[int] = (),
) -> None:
    """Complete the checkpoint of `new_state_file`; drop all but the newest `keep` and the pinned.

    `written` waits for that file and returns its number of rounds. `fingerprint` is that of the
    settings of pre-training, which a reader compares. The clients' states and evaluations of the
    checkpoint reach the disk first, and so do the numbers of its rounds, in the outbox. RunError if
    there is no room; then older checkpoints stay.
    """
    part = _part(run_dir, num_rounds_done)
    spare = part.with_name(SPARE)
    try:
        round_idx = written()
        manifest = Manifest(
            round_idx=round_idx,
            pretrain_fingerprint=fingerprint,
            clients=ClientStore(run_dir / CLIENTS).rounds_seen(round_idx),
            evaluations=[done for done in evaluated_rounds(run_dir) if done < round_idx],
            sha256={STATE: file_sha256(part / STATE)},
        )
        sync(part / STATE)
        sync_outbox(run_dir)  # first: a resume repeats no evaluation that is there
        _sync_beside(run_dir, manifest)
        write_whole(part / MANIFEST, manifest.text().encode(), is_lasting=True)
        target = folder_of(run_dir, round_idx)
        shutil.rmtree(target, ignore_errors=True)  # a damaged one, written before a crash
        sync(part)  # the names in it, before its own
        part.rename(target)
        sync(part.parent)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    for old in checkpoints(run_dir)[:-keep]:
        if int(old.name) in pinned_rounds:
            continue
        if spare.exists():
            shutil.rmtree(old)
        else:
            old.rename(spare)


def drop_unfinished(run_dir: Path) -> None:
    """Drop the parts of unfinished checkpoints."""
    for part in (run_dir / CHECKPOINTS).glob(".*.part"):
        shutil.rmtree(part, ignore_errors=True)


def _sync_beside(run_dir: Path, manifest: Manifest) -> None:
    """Bring to the disk those files of a checkpoint that the one before it does not have."""
    clients, evaluations = manifest.clients.items(), set(manifest.evaluations)
    for path in reversed(checkpoints(run_dir)):
        try:
            before = read_manifest(path)
        except ValueError:
            continue
        clients, evaluations = clients - before.clients.items(), evaluations - {*before.evaluations}
        break
    new = Manifest(manifest.round_idx, "", dict(clients), sorted(evaluations), {}).files(run_dir)
    for path in (*new, *{path.parent for path in new}):
        sync(path)


def checkpoints(run_dir: Path) -> list[Path]:
    """Return the folders of a run's checkpoints, oldest first."""
    found = [p for p in (run_dir / CHECKPOINTS).glob("*") if p.name.isdecimal()]
    return sorted(found, key=lambda path: int(path.name))


def kept_rounds(run_dir: Path) -> tuple[int, ...]:
    """Return after how many rounds the existing checkpoints were taken."""
    return tuple(int(path.name) for path in checkpoints(run_dir))


def newest_checkpoint(run_dir: Path, fingerprint: str) -> ServerState | None:
    """Return the server's state of the newest good checkpoint, or None.

    A warning names each damaged file of newer ones. RunError if a checkpoint belongs to other
    settings, or if a file cannot be read now, since it may be intact. FormatError if a file is of a
    newer format.
    """
    named: set[str] = set()
    for path in reversed(checkpoints(run_dir)):
        faults: list[str] = []
        try:
            manifest = read_manifest(path)
            if manifest.pretrain_fingerprint != fingerprint:
                raise RunError(
                    f"expected a checkpoint of these settings in {path}, got one of others: "
                    "start a new run instead"
                )
            faults = _faults_beside(run_dir, manifest)
            state = _read_state(path, manifest)
        except RunError:
            raise
        except ValueError as error:
            faults.append(f"expected a whole checkpoint in {path}, got {error}")
        except (OSError, MemoryError) as error:
            raise unreadable("a checkpoint", path, error) from error
        else:
            if not faults:
                return state
        for fault in [fault for fault in faults if fault not in named]:
            _log.warning("damaged: %s", fault)
        named.update(faults)
        _log.warning("the checkpoint %s cannot be used: the one before it is tried", path)
    return None


def _read_state(path: Path, manifest: Manifest) -> ServerState:
    try:
        return read_state(path / STATE, manifest.round_idx, manifest.sha256[STATE])
    except DAMAGE as error:
        raise ValueError(f"{STATE}: {error}") from error


def _faults_beside(run_dir: Path, manifest: Manifest) -> list[str]:
    store = ClientStore(run_dir / CLIENTS)
    faults = store.faults(manifest.clients, manifest.round_idx)
    return faults + evaluation_faults(run_dir, manifest.evaluations)
