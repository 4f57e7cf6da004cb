"""Images in memory as a folder: what is written is read again with the settings that come back."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import spire
from pipeline.config.data import DataConfig
from pipeline.data.datasets import ImageData, load, load_clients
from spire_core.errors import DataError

GREY = np.arange(10 * 16 * 16).reshape(10, 16, 16).astype(np.uint8)


def read(settings: dict[str, Any]) -> ImageData:
    """What a run reads with the settings; without clients the training split."""
    config = DataConfig(**{k.removeprefix("data."): v for k, v in settings.items() if "data." in k})
    return load_clients(config) if config.metadata else load(config, "train")


class Pairs:
    """As torch's `Dataset`: a length and an index that never ends."""

    def __len__(self) -> int:
        return 6

    def __getitem__(self, i: int) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.full((3, 8, 8), i / 51), torch.arange(4)[i % 2]


def test_labels_are_class_folders(tmp_path: Path) -> None:
    data = read(spire.write_images(tmp_path / "pairs", Pairs()))
    assert data.class_names == ("0", "1")
    values = data.images[:, 0, 0, 0] // 5  # of 5 i
    assert set(values % 2 == data.labels) == {True}
    assert len(values) == 4


def test_rows_with_clients_and_captions_are_natural_clients(tmp_path: Path) -> None:
    rows = [
        {"image": Image.fromarray(image), "client": f"c{i % 2}", "caption": 'a, "b"', "label": "x"}
        for i, image in enumerate(GREY)
    ]
    settings = spire.write_images(tmp_path / "rows", rows)
    assert (settings["model.text"], settings["model.words"]) == ("words", ['"b"', "a,"])
    assert settings["partition.name"] == "natural"
    data = read(settings)
    assert data.captions == ('a, "b"',) * 10
    assert data.class_names == ("x",)
    assert data.clients is not None
    assert data.clients.names == ("c0", "c1")
    assert data.clients.owner.tolist() == [0, 1] * 5
    np.testing.assert_array_equal(data.images[:, 0], GREY)


@pytest.mark.parametrize(
    ("images", "more", "told"),
    [
        ([np.zeros((4, 4), np.uint16)], {}, r"expected image 0 as .*, got uint16 \(4, 4\)"),
        (GREY, {"labels": [1]}, "expected 10 labels for as many images, got 1"),
        (GREY[:2], {"clients": ["a", np.nan]}, "a client of every image or of none, got none of i"),
        (GREY[:1], {"captions": ["a"]}, "expected clients with captions, got none: say whose"),
        (GREY[:1], {"labels": ["a/b"]}, "expected labels that can name a folder, got"),
    ],
)
def test_what_cannot_be_written_leaves_nothing(
    tmp_path: Path, images: Any, more: dict[str, Any], told: str
) -> None:
    with pytest.raises(DataError, match=told):
        spire.write_images(tmp_path / "new", images, **more)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").touch()
    with pytest.raises(DataError, match="expected a new or empty folder"):
        spire.write_images(tmp_path, GREY)
