"""The server's state in a safetensors file. Nothing here imports torch: neither does the server."""

from dataclasses import fields
from pathlib import Path

import numpy as np

from pipeline.files.tensors import read_arrays, write_arrays
from spire_core.federated.messages import AdamMoments
from spire_core.federated.server import ServerState


def write_state(path: Path, state: ServerState) -> int:
    """Write all arrays of a state; return its number of rounds. RunError if there is no room."""
    named = vars(state) | (vars(state.moments) if state.moments is not None else {})
    write_arrays(path, {name: v for name, v in named.items() if isinstance(v, np.ndarray)})
    return state.round_idx


def read_state(path: Path, round_idx: int) -> ServerState:
    """Return the state after so many rounds; raises as `read_arrays` does."""
    arrays, _ = read_arrays(path)
    names = [field.name for field in fields(AdamMoments)]
    moments = AdamMoments(*map(arrays.pop, names)) if names[0] in arrays else None
    return ServerState(round_idx=round_idx, moments=moments, **arrays)
