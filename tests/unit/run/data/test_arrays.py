"""Images in memory as a folder: the settings that are returned are those that a run takes."""

from pathlib import Path

import numpy as np
import pytest

from pipeline.config.data import DataConfig
from pipeline.data.arrays import write_folder


@pytest.mark.parametrize(("side", "size"), [(1, 4), (13, 16), (1024, 1024), (1030, 1024)])
def test_the_size_is_the_longest_side_that_a_run_takes(
    side: int, size: int, tmp_path: Path
) -> None:
    images = [np.zeros((1, 1), np.uint8), np.zeros((1, side), np.uint8)]
    settings = write_folder(tmp_path / "new", images)
    assert settings["data.image_size"] == size
    DataConfig(**{key.removeprefix("data."): value for key, value in settings.items()})
