"""Where clients keep their private state between rounds: a small safetensors file for each round.

The files lie on the clients' side; the driver knows neither their place nor their content. The
state before a round is kept beside the one after it, so that a round can be done again, and so are
the states that a checkpoint needs. Each file carries the hash of its tensors.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save

from pipeline.files.atomic import write_whole
from pipeline.files.damage import GO_BACK, DamagedError, reading
from spire_core.federated.private_state import PrivateState
from spire_core.network.flat_model import tensors_hash

KEPT_VERSIONS = 2


SUFFIX = ".safetensors"


class ClientStore:
    """Private client states under one folder; `num_rounds_done`: rounds that a state has seen."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, client_id: int, num_rounds_done: int) -> Path:
        """Return where the state of a client that has seen so many rounds lies."""
        return self.folder / f"{client_id:07d}" / f"{num_rounds_done:07d}{SUFFIX}"

    def versions(self, client_id: int) -> list[Path]:
        """Return the files of one client, oldest first."""
        return [self.path(client_id, done) for done in self._kept(client_id)]

    def _kept(self, client_id: int) -> list[int]:
        """Return how many rounds the states of a client that are kept have seen, in order."""
        try:
            names = os.listdir(self.folder / f"{client_id:07d}")
        except (FileNotFoundError, NotADirectoryError):
            return []
        stems = [name.removesuffix(SUFFIX) for name in names if name.endswith(SUFFIX)]
        return sorted(int(stem) for stem in stems if stem.isdecimal())

    def client_ids(self) -> list[int]:
        """Return the clients that have ever stored a state, in ascending order."""
        return sorted(int(p.name) for p in self.folder.glob("*") if p.name.isdecimal())

    def newest(self, client_id: int, num_rounds_done: int | None = None) -> Path | None:
        """Return the file of the newest state that has seen at most so many rounds, or None."""
        for path in reversed(self.versions(client_id)):
            if num_rounds_done is None or int(path.stem) <= num_rounds_done:
                return path
        return None

    def load(self, client_id: int, num_rounds_done: int | None = None) -> PrivateState | None:
        """Return the newest state that has seen at most so many rounds, or None without one."""
        path = self.newest(client_id, num_rounds_done)
        return None if path is None else _read(path)

    def save(
        self,
        client_id: int,
        num_rounds_done: int,
        state: PrivateState,
        kept_rounds: Sequence[int] = (),
    ) -> None:
        """Write a state atomically; drop those that neither a redone round nor a checkpoint needs.

        `kept_rounds`: after how many rounds the kept checkpoints were taken. RunError if there is
        no room for it; FileNotFoundError if the run's folder is gone, which is not for a client to
        make: on another node it would be an empty one.
        """
        path = self.path(client_id, num_rounds_done)
        self.folder.mkdir(exist_ok=True)
        path.parent.mkdir(exist_ok=True)
        write_whole(path, save(state, metadata={"sha256": tensors_hash(state)}))
        paths = self.versions(client_id)
        kept = set(paths[-KEPT_VERSIONS:])
        for done in kept_rounds:
            kept |= set([path for path in paths if int(path.stem) <= done][-1:])
        for path in paths:
            if path not in kept:
                path.unlink(missing_ok=True)

    def rounds_seen(self, num_rounds_done: int) -> dict[int, int]:
        """Return how many rounds, of the first so many, each client's newest state has seen.

        Clients that have seen none are left out.
        """
        kept = {client_id: self._kept(client_id) for client_id in self.client_ids()}
        seen = {c: max((d for d in kept[c] if d <= num_rounds_done), default=0) for c in kept}
        return {client_id: done for client_id, done in seen.items() if done > 0}

    def faults(self, rounds_seen: Mapping[int, int], num_rounds_done: int) -> list[str]:
        """Return what is wrong with the clients' states after so many rounds, file by file.

        `rounds_seen`: what was returned under that name when they were whole.
        """
        there, found = self.rounds_seen(num_rounds_done), []
        for client_id in sorted({*rounds_seen, *there}):
            done, newest = rounds_seen.get(client_id, 0), there.get(client_id, 0)
            try:
                _read(self.path(client_id, max(done, newest)))
                if newest > done:
                    found.append(f"{self.path(client_id, newest)} is of another course of the run")
            except DamagedError as error:
                found.append(str(error).removesuffix(f": {GO_BACK}"))
        return found

    def rewind(self, num_rounds_done: int, client_id: int | None = None) -> None:
        """Drop states that have seen more rounds, and half written ones: a client's, or all."""
        whose = "*" if client_id is None else f"{client_id:07d}"
        for path in self.folder.glob(f"{whose}/*"):
            is_newer = path.stem.isdecimal() and int(path.stem) > num_rounds_done
            if path.suffix == ".part" or is_newer:
                path.unlink(missing_ok=True)


def _read(path: Path) -> PrivateState:
    with reading("a client's state", path, GO_BACK):
        # To `safe_open` alone any file that cannot be opened is a missing one.
        with path.open("rb"), safe_open(path, framework="pt") as file:
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            expected = (file.metadata() or {}).get("sha256")
        if tensors_hash(state) != expected:
            raise ValueError("other numbers than were written")
    return state
