"""The store of the clients' private states: one small safetensors file per client and round.

The files lie on the clients' side; the driver knows neither their place nor their content. Besides
the newest state the store keeps the one before it, so that a round can be repeated, and those that
a checkpoint needs.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import torch

from pipeline.files.atomic import writing
from pipeline.files.tensors import read_arrays, write_arrays
from spire_core.federated.private_state import PrivateState

KEPT_VERSIONS = 2
SUFFIX = ".safetensors"


class ClientStore:
    """Private states of clients under one folder.

    `num_rounds_done`: the number of the run's rounds after which a state was stored.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, client_id: int, num_rounds_done: int) -> Path:
        """Return the path of a client's state after this number of rounds."""
        return self.folder / f"{client_id:07d}" / f"{num_rounds_done:07d}{SUFFIX}"

    def versions(self, client_id: int) -> list[Path]:
        """Return the files of one client, oldest first."""
        folder = self.folder / f"{client_id:07d}"
        names = os.listdir(folder) if folder.is_dir() else []
        return [folder / name for name in sorted(names) if name.endswith(SUFFIX)]

    def client_ids(self) -> list[int]:
        """Return the ids of clients with a stored state, in ascending order."""
        return sorted(int(p.name) for p in self.folder.glob("*") if p.name.isdecimal())

    def newest(self, client_id: int, num_rounds_done: int | None = None) -> Path | None:
        """Return the file of the newest state after at most this number of rounds, or None."""
        for path in reversed(self.versions(client_id)):
            if num_rounds_done is None or int(path.stem) <= num_rounds_done:
                return path
        return None

    def load(self, client_id: int, num_rounds_done: int | None = None) -> PrivateState | None:
        """Return the newest state after at most this number of rounds, or None."""
        path = self.newest(client_id, num_rounds_done)
        if path is None:
            return None
        arrays, _ = read_arrays(path)
        return PrivateState.from_tensors({n: torch.from_numpy(a) for n, a in arrays.items()})

    def save(
        self,
        client_id: int,
        num_rounds_done: int,
        state: PrivateState,
        kept_rounds: Sequence[int] = (),
    ) -> None:
        """Write a state atomically, and drop obsolete ones.

        A state is obsolete if neither a repeated round nor a checkpoint needs it. `kept_rounds`:
        the rounds after which the kept checkpoints were taken. RunError if there is no room, or if
        the run's folder is missing or cannot be written. A client never creates it: on a node
        without shared storage that would silently start an empty run.
        """
        path = self.path(client_id, num_rounds_done)
        tensors = state.to_tensors()
        with writing(path):
            self.folder.mkdir(exist_ok=True)
            path.parent.mkdir(exist_ok=True)
            write_arrays(path, {name: t.detach().cpu().numpy() for name, t in tensors.items()})
            versions = self.versions(client_id)
            kept = {*versions[-KEPT_VERSIONS:], *(self.newest(client_id, r) for r in kept_rounds)}
            for old in versions:
                if old not in kept:
                    old.unlink(missing_ok=True)

    def rounds_seen(self, num_rounds_done: int) -> dict[int, int]:
        """Return the last of the first `num_rounds_done` rounds after which each client was stored.

        Clients without a state in these rounds are left out.
        """
        newest = {c: self.newest(c, num_rounds_done) for c in self.client_ids()}
        seen = {c: int(path.stem) for c, path in newest.items() if path is not None}
        return {client_id: done for client_id, done in seen.items() if done > 0}
