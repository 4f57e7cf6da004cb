"""The server's state in a safetensors file, written without copies in memory.

P: length of the flat weight vector.
"""

import dataclasses
import hashlib
import json
import struct
from pathlib import Path

import numpy as np
from safetensors.numpy import load

from pipeline.files.atomic import room_for
from spire_core.federated.messages import AdamMoments
from spire_core.federated.server import ServerState

TYPES = {"float32": "F32", "float64": "F64"}  # numpy's name -> safetensors' name


def write_state(path: Path, state: ServerState) -> int:
    """Write all arrays of a state, most of them (P,); return its number of rounds.

    The bytes equal those of `safetensors.numpy.save`, which copies every array twice and so took
    half the time of a checkpoint. An existing file, which must be obsolete, is overwritten in
    place, because the system would first have to allocate and clear a new one. RunError if there is
    no room.
    """
    arrays = {name: np.ascontiguousarray(array) for name, array in _arrays(state).items()}
    with room_for(path), path.open("r+b" if path.exists() else "wb") as file:
        file.write(_header(arrays))
        for array in arrays.values():
            file.write(array.data.cast("B"))
        file.truncate()
    return state.round_idx


def read_state(path: Path, round_idx: int, sha256: str) -> ServerState:
    """Return the state after so many rounds; raises one of `damage.DAMAGE` if it is not intact.

    `sha256`: the answer of `file_sha256` when the state was written.
    """
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != sha256:
        raise ValueError("other content than was written")
    arrays = load(content)
    names = [field.name for field in dataclasses.fields(AdamMoments)]
    moments = AdamMoments(*map(arrays.pop, names)) if names[0] in arrays else None
    return ServerState(round_idx=round_idx, moments=moments, **arrays)


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _arrays(state: ServerState) -> dict[str, np.ndarray]:
    """Return the arrays by name in the order of the file, which keeps every number aligned."""
    named = vars(state) | (vars(state.moments) if state.moments is not None else {})
    arrays = {name: value for name, value in named.items() if isinstance(value, np.ndarray)}
    return dict(sorted(arrays.items(), key=lambda item: (-item[1].itemsize, item[0])))


def _header(arrays: dict[str, np.ndarray]) -> bytes:
    """Return the header of a safetensors file: its length, and the place of each array."""
    entries, begin = {}, 0
    for name, array in arrays.items():
        entries[name] = {
            "dtype": TYPES[array.dtype.name],
            "shape": array.shape,
            "data_offsets": (begin, begin + array.nbytes),
        }
        begin += array.nbytes
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text
