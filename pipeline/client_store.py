"""Where clients keep their private state between rounds: a small safetensors file for each round.

The files lie on the clients' side; the driver knows neither their place nor their content. The
state before a round is kept beside the one after it, so that a round can be done again, and so are
the states that a checkpoint needs. Each file carries the hash of its tensors.
"""

import os
import uuid
from collections.abc import Sequence
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from spire_core.client import PrivateState
from spire_core.errors import RunError
from spire_core.flat import tensors_hash

KEPT_VERSIONS = 2


class ClientStore:
    """Private client states under one folder; `num_rounds_done`: rounds that a state has seen."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def versions(self, client_id: int) -> list[Path]:
        """Return the files of one client, oldest first."""
        return sorted((self.folder / f"{client_id:07d}").glob("*.safetensors"))

    def client_ids(self) -> list[int]:
        """Return the clients that have ever stored a state, in ascending order."""
        return sorted(int(p.name) for p in self.folder.glob("*") if p.name.isdecimal())

    def load(self, client_id: int, num_rounds_done: int | None = None) -> PrivateState | None:
        """Return the newest state that has seen at most so many rounds, or None without one."""
        for path in reversed(self.versions(client_id)):
            if num_rounds_done is None or int(path.stem) <= num_rounds_done:
                return _read(path)
        return None

    def save(
        self,
        client_id: int,
        num_rounds_done: int,
        state: PrivateState,
        kept_rounds: Sequence[int] = (),
    ) -> None:
        """Write a state atomically; drop those that neither a redone round nor a checkpoint needs.

        `kept_rounds`: after how many rounds the kept checkpoints were taken.
        """
        folder = self.folder / f"{client_id:07d}"
        folder.mkdir(parents=True, exist_ok=True)
        part = folder / f"{uuid.uuid4().hex}.part"
        save_file(state, part, metadata={"sha256": tensors_hash(state)})
        os.replace(part, folder / f"{num_rounds_done:07d}.safetensors")
        paths = self.versions(client_id)
        kept = set(paths[-KEPT_VERSIONS:])
        for done in kept_rounds:
            kept |= set([path for path in paths if int(path.stem) <= done][-1:])
        for path in paths:
            if path not in kept:
                path.unlink(missing_ok=True)

    def rewind(self, num_rounds_done: int) -> None:
        """Drop the states of all clients that have seen more rounds than this."""
        for path in self.folder.glob("*/*.safetensors"):
            if int(path.stem) > num_rounds_done:
                path.unlink(missing_ok=True)


def _read(path: Path) -> PrivateState:
    try:
        with safe_open(path, framework="pt") as file:
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            expected = (file.metadata() or {}).get("sha256")
    except (OSError, SafetensorError) as error:
        raise RunError(
            f"expected a client's state in {path}, got {error}: put back a copy of this file, or "
            "start a new run"
        ) from error
    if tensors_hash(state) != expected:
        raise RunError(
            f"expected the client's state that was written to {path}, got other numbers: put back "
            "a copy of this file, or start a new run"
        )
    return state
