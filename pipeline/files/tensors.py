"""Safetensors files that carry the SHA-256 of their own content, so that damage is noticed.

Arrays are numpy's: the server, which writes its state so, does without torch.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save

from pipeline.files.atomic import GO_BACK, reading, write_whole

HEADER = "spire"  # the one entry of the header: with several, their order changes from file to file
HASH = "sha256"  # the name of the hash in that entry


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray], **texts: str) -> None:
    """Write arrays, and named texts in the header, atomically; RunError if there is no room."""
    whole = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    header = json.dumps(texts | {HASH: _content_hash(whole, texts)}, sort_keys=True)
    write_whole(path, save(whole, metadata={HEADER: header}))


def read_arrays(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Return the arrays and texts of a file; DamagedError if it is not intact."""
    with reading("a file as it was written", path, GO_BACK):
        # The error of `safe_open` is that of a missing file for each that cannot be opened.
        with path.open("rb"), safe_open(path, framework="np") as file:
            texts = json.loads((file.metadata() or {})[HEADER])
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if texts.pop(HASH, None) != _content_hash(arrays, texts):
            raise ValueError("other content than was written")
        return arrays, texts


def _content_hash(arrays: Mapping[str, np.ndarray], texts: Mapping[str, str]) -> str:
    digest = hashlib.sha256(json.dumps(texts, sort_keys=True).encode())
    for name, array in sorted(arrays.items()):
        digest.update(f"{name}{array.shape}{array.dtype}".encode())
        digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
