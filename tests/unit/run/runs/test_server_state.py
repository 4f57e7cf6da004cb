"""The server's state in a file: the bytes that safetensors writes, whatever was there before."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from pipeline.runs.server_state import file_sha256, read_state, write_state
from spire_core.federated.messages import AdamMoments
from spire_core.federated.server import ServerState


def some_state(size: int, with_all: bool) -> ServerState:
    rng = np.random.default_rng(size)
    single = [rng.normal(size=size).astype(np.float32) for _ in range(4)]
    moments = AdamMoments(*single[2:], np.ones(4, np.float32))
    more = [moments, rng.normal(size=size), rng.normal(size=size)]
    return ServerState(size, *single[:2], *(more if with_all else ()))


def flat(state: ServerState) -> dict[str, Any]:
    """All fields by name, those of the moments beside the others."""
    fields = dataclasses.asdict(state)
    return fields | (fields.pop("moments") or {})


@pytest.mark.parametrize("with_all", [False, True])
@pytest.mark.parametrize("size", [1, 50, 4097])
def test_the_bytes_are_those_of_the_library(size: int, with_all: bool, tmp_path: Path) -> None:
    state, path = some_state(size, with_all), tmp_path / "server.safetensors"
    assert write_state(path, state) == size
    told = flat(state)
    assert path.read_bytes() == save(
        {name: array for name, array in told.items() if isinstance(array, np.ndarray)}
    )
    found = flat(read_state(path, size, file_sha256(path)))
    assert found.keys() == told.keys()
    for name, value in told.items():
        np.testing.assert_array_equal(found[name], value)


@pytest.mark.parametrize(
    ("before", "after"), [((4097, True), (50, False)), ((1, False), (50, True))]
)
def test_a_file_is_written_over(
    before: tuple[int, bool], after: tuple[int, bool], tmp_path: Path
) -> None:
    path, fresh = tmp_path / "used", tmp_path / "fresh"
    write_state(path, some_state(*before))
    inode = path.stat().st_ino
    write_state(path, some_state(*after))
    write_state(fresh, some_state(*after))
    assert path.read_bytes() == fresh.read_bytes()
    assert path.stat().st_ino == inode


def test_other_content_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "server.safetensors"
    write_state(path, some_state(50, with_all=True))
    digest = file_sha256(path)
    write_state(path, some_state(50, with_all=False))
    with pytest.raises(ValueError, match="other content"):
        read_state(path, 50, digest)
