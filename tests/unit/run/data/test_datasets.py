"""Data sets: the settings, the store's verification, resizing."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.config.data import DataConfig
from pipeline.data.datasets import describe, load, load_stored
from pipeline.data.resize import resized
from spire_core.errors import DataError


def test_mnist_has_the_hashes_of_every_run_before(mnist_root: Path) -> None:
    """Runs record them as `data_sha256`, and compare only with runs on the same images."""
    train, test = (load_stored("mnist", mnist_root, split) for split in ("train", "test"))
    assert train.sha256 == "cf02c98852946bbb372ccb8b24c0e50d039ecda364fbf86c6dab43b78ea3d919"
    assert test.sha256 == "f22756add8149df5ba2eb730cf9406e4e5423ed60751c314a81362f510e3e0bb"
    assert (train.images.shape, train.labels.dtype) == ((60000, 1, 28, 28), np.int64)


def test_other_arrays_than_the_published_ones_are_named(tmp_path: Path, mnist_root: Path) -> None:
    with pytest.raises(DataError, match="got nothing: run `spire data fetch mnist`"):
        load(DataConfig(root=str(tmp_path)), "train")
    with np.load(mnist_root / "mnist.npz") as stored:
        arrays = {"train_images": stored["train_images"], "train_labels": stored["train_labels"]}
    np.savez(tmp_path / "mnist.npz", **arrays | {"train_labels": arrays["train_labels"][::-1]})
    with pytest.raises(DataError, match=r"mnist\.npz is damaged.*spire data fetch mnist"):
        load_stored("mnist", tmp_path, "train")
    state = describe("mnist", tmp_path)
    assert (state["present"], state["ok"]) == (True, False)


def test_area_average_by_hand() -> None:
    image = np.array([[0, 1, 10, 20], [1, 4, 30, 41], [255, 255, 0, 0], [255, 255, 0, 2]], np.uint8)
    # means 6/4, 101/4, 255 and 2/4; halves round up
    assert resized(image[None, None], 2).tolist() == [[[[2, 25], [255, 1]]]]


def test_28_is_padded_to_32_with_zeros_around() -> None:
    images = np.random.default_rng(0).integers(1, 256, (2, 1, 28, 28), dtype=np.uint8)
    padded = resized(images, None)
    np.testing.assert_array_equal(resized(padded, None), padded)
    np.testing.assert_array_equal(padded[:, :, 2:30, 2:30], images)
    assert padded.sum() == images.sum()
    np.testing.assert_array_equal(resized(images, 32), padded)
    np.testing.assert_array_equal(resized(images, 16), resized(padded, 16))


@pytest.mark.parametrize("size", [8, 12])
def test_many_images_are_resized_as_few_are(size: int) -> None:
    images = np.random.default_rng(0).integers(0, 256, (11000, 3, 16, 16), dtype=np.uint8)
    np.testing.assert_array_equal(resized(images, size)[-3:], resized(images[-3:], size))


def test_bilinear_resizing_equals_pillow() -> None:
    image = np.random.default_rng(0).integers(0, 256, (32, 32), dtype=np.uint8)
    pillow = np.asarray(Image.fromarray(image).resize((12, 12), Image.Resampling.BILINEAR))
    ours = resized(image[None, None], 12)[0, 0]
    assert np.abs(ours.astype(int) - pillow).max() <= 1  # Pillow rounds between its two passes
