"""A run's checkpoints: the state after some rounds, whole on disk or not there at all.

A checkpoint is a folder `checkpoints/<rounds done>/` with the server's `server.safetensors` and,
written last, `manifest.json`: the SHA-256 of that file and of the manifest itself, and which files
beside the folder belong to it, each of which carries a hash of its own. Those are the clients'
states, which lie on the clients' side (`client_store.py`), and the evaluations so far
(`evaluation_store.py`). A checkpoint is good if all of it is. Nothing in it runs code when read.

It gets its name when it is whole; until then it is `checkpoints/.<rounds done>.part`. The folder of
the last checkpoint that nobody needs becomes the next one's, so that its file is written over.
"""

import dataclasses
import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.checkpoint.evaluation_store import (
    evaluated_rounds,
    evaluation_faults,
    evaluation_path,
)
from pipeline.clients.store import ClientStore
from pipeline.files.atomic import room_for, sync, write_whole
from pipeline.files.damage import DAMAGE, unreadable
from pipeline.runs.layout import CHECKPOINTS, CLIENTS, MANIFEST, STATE
from pipeline.runs.server_state import file_sha256, read_state
from spire_core.errors import RunError
from spire_core.federated.server import ServerState

SPARE = ".spare.part"
KINDS = {"round_idx": int, "pretrain_fingerprint": str, "clients": dict, "evaluations": list}
KINDS |= {"sha256": dict}
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Manifest:
    """What belongs to a checkpoint after `round_idx` rounds.

    `clients`: how many rounds the state of each client has seen that has seen any; `evaluations`:
    after how many rounds there are some, before this one; `sha256` of the checkpoint's own files.
    """

    round_idx: int
    pretrain_fingerprint: str
    clients: dict[int, int]
    evaluations: list[int]
    sha256: dict[str, str]

    def files(self, run_dir: Path) -> list[Path]:
        """Return the files that belong to it: clients' states, evaluations, and its own but one.

        The manifest itself is left out.
        """
        store = ClientStore(run_dir / CLIENTS)
        beside = [store.path(client_id, done) for client_id, done in self.clients.items()]
        beside += [evaluation_path(run_dir, done) for done in self.evaluations]
        return beside + [folder_of(run_dir, self.round_idx) / name for name in self.sha256]

    def text(self) -> str:
        """Return it as JSON, with a hash of itself."""
        told = dataclasses.asdict(self)
        told["clients"] = {str(client_id): done for client_id, done in self.clients.items()}
        return json.dumps(told | {"manifest_sha256": _sha256_of(told)}, indent=1) + "\n"

    @staticmethod
    def parse(text: str) -> "Manifest":
        """Return what `text` was made of; ValueError or its like if it is anything else."""
        told: dict[str, Any] = json.loads(text)
        if told.pop("manifest_sha256") != _sha256_of(told):
            raise ValueError("other content than was written")
        if {name: type(value) for name, value in told.items()} != KINDS:
            raise ValueError("values of other types")
        clients = {int(client_id): int(done) for client_id, done in told["clients"].items()}
        evaluations = [int(done) for done in told["evaluations"]]
        return Manifest(**told | {"clients": clients, "evaluations": evaluations})


def folder_of(run_dir: Path, num_rounds_done: int) -> Path:
    """Return where the checkpoint after so many rounds lies."""
    return run_dir / CHECKPOINTS / f"{num_rounds_done:07d}"


def new_state_file(run_dir: Path, num_rounds_done: int) -> Path:
    """Return where the server's state of a new checkpoint is to be written, in a folder for it.

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
    """Make a checkpoint of what is in `new_state_file`; drop all but the newest `keep` and pinned.

    `written` returns after how many rounds that is, once it is there. `fingerprint` is that of the
    pre-training's settings, which a reader compares. The clients' states and evaluations that
    belong to it reach the disk first. RunError if there is no room: older checkpoints stay as they
    are.
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
        _sync_beside(run_dir, manifest)
        write_whole(part / MANIFEST, manifest.text().encode(), is_lasting=True)
        target = folder_of(run_dir, round_idx)
        shutil.rmtree(target, ignore_errors=True)  # a damaged one, written before a crash
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
    """Drop what is there of checkpoints that are not to be."""
    for part in (run_dir / CHECKPOINTS).glob(".*.part"):
        shutil.rmtree(part, ignore_errors=True)


def _sync_beside(run_dir: Path, manifest: Manifest) -> None:
    """Bring to the disk what belongs to a checkpoint and is new since the one before it."""
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
    return sorted(p for p in (run_dir / CHECKPOINTS).glob("*") if p.name.isdecimal())


def kept_rounds(run_dir: Path) -> tuple[int, ...]:
    """Return after how many rounds the checkpoints that exist were taken."""
    return tuple(int(path.name) for path in checkpoints(run_dir))


def newest_checkpoint(run_dir: Path, fingerprint: str) -> ServerState | None:
    """Return the newest server's state with which all that belongs to it is whole, or None.

    Each damaged file of newer ones is named in a warning. RunError if the checkpoint belongs to
    other settings, or if a file cannot be read now: it may be whole.
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


def read_manifest(path: Path) -> Manifest:
    """Return the manifest in a checkpoint's folder; ValueError if it is not whole."""
    try:
        manifest = Manifest.parse((path / MANIFEST).read_text())
        if manifest.round_idx != int(path.name):
            raise ValueError(f"that of round {manifest.round_idx}")
    except DAMAGE as error:
        raise ValueError(f"{MANIFEST}: {error}") from error
    return manifest


def _read_state(path: Path, manifest: Manifest) -> ServerState:
    try:
        return read_state(path / STATE, manifest.round_idx, manifest.sha256[STATE])
    except DAMAGE as error:
        raise ValueError(f"{STATE}: {error}") from error


def _faults_beside(run_dir: Path, manifest: Manifest) -> list[str]:
    store = ClientStore(run_dir / CLIENTS)
    faults = store.faults(manifest.clients, manifest.round_idx)
    return faults + evaluation_faults(run_dir, manifest.evaluations)


def _sha256_of(told: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
