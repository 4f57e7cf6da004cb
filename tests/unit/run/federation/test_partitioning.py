"""Clients out of a folder of the user's own: the number of images that the presets ask for."""

from pathlib import Path

import pytest
from PIL import Image

from pipeline.config.load import load_config
from pipeline.federation.setup import partitioned
from spire_core.errors import DataError


def photos(folder: Path, num_images: int, num_classes: int) -> str:
    """Make a folder of images, a subfolder for each class, and return its setting."""
    for i in range(num_images):
        path = folder / f"class{i % num_classes}" / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), i).save(path)
    return f"data.path={folder}"


@pytest.mark.parametrize("num_classes", [3, 7])
def test_250_images_are_enough_for_folder_cpu(tmp_path: Path, num_classes: int) -> None:
    _, partition = partitioned(load_config("folder-cpu", [photos(tmp_path, 250, num_classes)]))
    assert len(partition.client_ids) == 8


def test_too_few_images_are_counted_where_clients_come_from(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"at least 20 images for each of 8 clients.* got 158"):
        partitioned(load_config("folder-cpu", [photos(tmp_path, 200, 3)]))
