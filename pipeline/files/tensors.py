"""Safetensors files that carry the SHA-256 of their own content, so that damage is noticed."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from pipeline.files.atomic import write_whole
from pipeline.files.run_format import FORMAT, FORMAT_KEY, check_format
from spire_core.network.flat_model import tensors_hash

HASH = "sha256"  # the name of the hash in the header


def write_tensors(path: Path, tensors: Mapping[str, Tensor], **texts: str) -> None:
    """Write tensors, and named texts in the header, atomically.

    RunError if there is no room.
    """
    contents = dict(tensors)
    header = {**texts, HASH: _content_hash(contents, texts), FORMAT_KEY: str(FORMAT)}
    write_whole(path, save(contents, metadata=header))


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors and texts of a file.

    Raises one of DAMAGE if it is not intact, and FormatError if it is of a newer format.
    """
    # The error of `safe_open` is that of a missing file for every file that cannot be opened.
    with path.open("rb"), safe_open(path, framework="pt") as file:
        texts = dict(file.metadata() or {})
        check_format(texts, path)
        texts.pop(FORMAT_KEY, None)
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if texts.pop(HASH, None) != _content_hash(tensors, texts):
        raise ValueError("other content than was written")
    return tensors, texts


def _content_hash(tensors: dict[str, Tensor], texts: Mapping[str, str]) -> str:
    """Return the hash of the tensors, or if there are texts, that of both together."""
    of_tensors = tensors_hash(tensors)
    if not texts:
        return of_tensors
    joined = " ".join([of_tensors, *(texts[name] for name in sorted(texts))])
    return hashlib.sha256(joined.encode()).hexdigest()
