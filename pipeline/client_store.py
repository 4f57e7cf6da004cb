"""Where clients keep their private state between rounds: a small safetensors file for each round.

The files lie on the clients' side; the driver knows neither their place nor their content. The
state before a round is kept beside the one after it, so that a round can be done again.
"""

import os
import uuid
from pathlib import Path

from safetensors.torch import load_file, save_file

from spire_core.client import PrivateState

KEPT_VERSIONS = 2


class ClientStore:
    """Private client states under one folder; `num_rounds_done`: rounds that a state has seen."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def _versions(self, client_id: int) -> list[Path]:
        return sorted((self.folder / f"{client_id:07d}").glob("*.safetensors"))

    def load(self, client_id: int, num_rounds_done: int | None = None) -> PrivateState | None:
        """Return the newest state that has seen at most so many rounds, or None without one."""
        for path in reversed(self._versions(client_id)):
            if num_rounds_done is None or int(path.stem) <= num_rounds_done:
                return load_file(path)
        return None

    def save(self, client_id: int, num_rounds_done: int, state: PrivateState) -> None:
        """Write a state atomically and drop all but the newest two."""
        folder = self.folder / f"{client_id:07d}"
        folder.mkdir(parents=True, exist_ok=True)
        part = folder / f"{uuid.uuid4().hex}.part"
        save_file(state, part)
        os.replace(part, folder / f"{num_rounds_done:07d}.safetensors")
        for old in self._versions(client_id)[:-KEPT_VERSIONS]:
            old.unlink(missing_ok=True)
