"""Images in memory as a folder: the settings that are returned are those that a run takes."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.config.data import DataConfig
from pipeline.data.arrays import write_folder
from spire_core.errors import DataError


@pytest.mark.parametrize(("side", "size"), [(1, 4), (13, 16), (1024, 1024), (1030, 1024)])
def test_the_size_is_the_longest_side_that_a_run_takes(
    side: int, size: int, tmp_path: Path
) -> None:
    images = [np.zeros((1, 1), np.uint8), np.zeros((1, side), np.uint8)]
    settings = write_folder(tmp_path / "new", images)
    assert settings["data.image_size"] == size
    DataConfig(**{key.removeprefix("data."): value for key, value in settings.items()})


def test_a_tensor_of_a_type_that_numpy_lacks_is_an_image(tmp_path: Path) -> None:
    shares = torch.tensor([[0.0, 0.25], [0.5, 1.0]], dtype=torch.bfloat16)
    write_folder(tmp_path / "new", [shares])
    [file] = (tmp_path / "new").rglob("*.png")
    np.testing.assert_array_equal(np.asarray(Image.open(file)), [[0, 64], [128, 255]])


@pytest.mark.parametrize("kind", ["sparse", "meta"])
def test_a_tensor_that_has_no_rows_is_one_sentence(tmp_path: Path, kind: str) -> None:
    image = torch.zeros(2, 2, device="meta") if kind == "meta" else torch.zeros(2, 2).to_sparse()
    with pytest.raises(DataError, match=r"expected image 0 of whole rows, got .*: mend it") as one:
        write_folder(tmp_path / "new", [image])
    assert "\n" not in str(one.value)
