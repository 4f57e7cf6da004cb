"""The manifest of a checkpoint: the list of its files, with hashes."""

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.checkpoint.evaluation_store import evaluation_path
from pipeline.clients.store import ClientStore
from pipeline.files.damage import DAMAGE, read_object
from pipeline.files.run_format import FORMAT, FORMAT_KEY
from pipeline.runs.layout import CHECKPOINTS, CLIENTS, MANIFEST

KINDS = {"round_idx": int, "pretrain_fingerprint": str, "clients": dict, "evaluations": list}
KINDS |= {"sha256": dict}


@dataclass(frozen=True)
class Manifest:
    """The list of files of a checkpoint after `round_idx` rounds.

    `clients`: after how many rounds each client's state was stored, of clients with a state;
    `evaluations`: after how many earlier rounds there are evaluations; `sha256`: the hash of each
    file in the checkpoint's own folder.
    """

    round_idx: int
    pretrain_fingerprint: str
    clients: dict[int, int]
    evaluations: list[int]
    sha256: dict[str, str]

    def files(self, run_dir: Path) -> list[Path]:
        """Return all files of the checkpoint except the manifest."""
        store = ClientStore(run_dir / CLIENTS)
        beside = [store.path(client_id, done) for client_id, done in self.clients.items()]
        beside += [evaluation_path(run_dir, done) for done in self.evaluations]
        return beside + [folder_of(run_dir, self.round_idx) / name for name in self.sha256]

    def text(self) -> str:
        """Return the manifest as JSON, with a hash of itself."""
        values = dataclasses.asdict(self)
        values["clients"] = {str(client_id): done for client_id, done in self.clients.items()}
        values[FORMAT_KEY] = FORMAT
        return json.dumps(values | {"manifest_sha256": _sha256_of(values)}, indent=1) + "\n"

    @staticmethod
    def read(path: Path) -> "Manifest":
        """Return the manifest in a file; raises as `read_object` does."""
        values = read_object(path)
        if values.pop("manifest_sha256") != _sha256_of(values):
            raise ValueError("other content than was written")
        values.pop(FORMAT_KEY, None)
        if {name: type(value) for name, value in values.items()} != KINDS:
            raise ValueError("values of other types")
        clients = {int(client_id): int(done) for client_id, done in values["clients"].items()}
        evaluations = [int(done) for done in values["evaluations"]]
        return Manifest(**values | {"clients": clients, "evaluations": evaluations})


def folder_of(run_dir: Path, num_rounds_done: int) -> Path:
    """Return the folder of the checkpoint after so many rounds."""
    return run_dir / CHECKPOINTS / f"{num_rounds_done:07d}"


def read_manifest(path: Path) -> Manifest:
    """Return the manifest in a checkpoint's folder; ValueError if it is damaged.

    FormatError if it is of a newer format.
    """
    try:
        manifest = Manifest.read(path / MANIFEST)
        if manifest.round_idx != int(path.name):
            raise ValueError(f"that of round {manifest.round_idx}")
    except DAMAGE as error:
        raise ValueError(f"{MANIFEST}: {error}") from error
    return manifest


def _sha256_of(values: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
