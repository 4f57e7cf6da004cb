"""A safetensors file that carries its own hash comes back as it was written, or is damaged."""

import hashlib
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from pipeline.files.damage import DAMAGE
from pipeline.files.run_format import FORMAT
from pipeline.files.tensors import read_tensors, write_tensors
from spire_core.network.flat_model import tensors_hash

TENSORS = {"b": torch.arange(6.0).reshape(2, 3), "a": torch.tensor([1, 2])}


@pytest.mark.parametrize("texts", [{}, {"scores": "[0.5]"}, {"x": "1", "a": "ä"}])
def test_there_and_back_is_the_identity(tmp_path: Path, texts: dict[str, str]) -> None:
    write_tensors(tmp_path / "t", TENSORS, **texts)
    tensors, read = read_tensors(tmp_path / "t")
    assert read == texts
    assert tensors_hash(tensors) == tensors_hash(TENSORS)


def test_the_hash_in_the_header_is_the_one_of_stored_runs(tmp_path: Path) -> None:
    own = tensors_hash(TENSORS)
    both = hashlib.sha256(f"{own} [0.5]".encode()).hexdigest()
    for texts, expected in (({}, own), ({"evaluation": "[0.5]"}, both)):
        write_tensors(tmp_path / "t", TENSORS, **texts)
        with safe_open(tmp_path / "t", "pt") as file:
            assert file.metadata() == texts | {"sha256": expected, "run_format": str(FORMAT)}


@pytest.mark.parametrize("damage", ["another number", "another text", "no hash", "cut off", "gone"])
def test_other_content_is_damage(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "t"
    write_tensors(path, TENSORS, text="a")
    with safe_open(path, "pt") as file:
        header, tensors = dict(file.metadata()), load_file(path)
    if damage == "another number":
        tensors["b"][0, 0] += 1
    elif damage == "another text":
        header["text"] = "b"
    elif damage == "no hash":
        del header["sha256"]
    save_file(tensors, path, header)
    if damage == "cut off":
        path.write_bytes(path.read_bytes()[:-1])
    elif damage == "gone":
        path.unlink()
    with pytest.raises(DAMAGE):
        read_tensors(path)
