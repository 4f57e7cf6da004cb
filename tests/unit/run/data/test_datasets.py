"""Data sets: the settings, the store's verification, resizing."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.config.data import DataConfig
from pipeline.data.datasets import describe, load, load_clients, load_stored, store_root
from pipeline.data.resize import resized
from spire_core.errors import ConfigError, DataError


def test_unknown_name_says_which_exist() -> None:
    with pytest.raises(ConfigError, match="did you mean fashion_mnist"):
        DataConfig(name="fashion-mnist")
    with pytest.raises(
        # Other tests of this process may have brought data sets from outside.
        ConfigError,
        match=r"mnist, fashion_mnist, cifar10, fonts, folder.*, got 'zzz': choose",
    ):
        DataConfig(name="zzz")


def test_config_checks_combinations_and_ranges() -> None:
    with pytest.raises(ConfigError, match="image_size=None"):
        DataConfig(name="folder", path="x")
    with pytest.raises(ConfigError, match="path=None"):
        DataConfig(name="folder", image_size=16)
    with pytest.raises(ConfigError, match=r"data\.channels"):
        DataConfig("folder", path="x", image_size=16, channels=2)
    with pytest.raises(ConfigError, match=r"data\.channels"):
        DataConfig("mnist", channels=1)


def test_store_root_is_argument_then_environment_then_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SPIRE_DATA", raising=False)
    assert store_root() == tmp_path / "data"
    monkeypatch.setenv("SPIRE_DATA", "elsewhere")
    assert store_root() == tmp_path / "elsewhere"
    assert store_root("given") == tmp_path / "given"


def test_load_says_how_to_fetch(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="spire data fetch mnist"):
        load(DataConfig(root=str(tmp_path)), "train")


def test_data_without_clients_are_refused() -> None:
    with pytest.raises(ConfigError, match="clients of its own, such as fonts or folder, got mnist"):
        load_clients(DataConfig())


def test_mnist_has_the_hashes_of_every_run_before(mnist_root: Path) -> None:
    """Runs record them as `data_sha256`, and compare only with runs on the same images."""
    train, test = (load_stored("mnist", mnist_root, split) for split in ("train", "test"))
    assert train.sha256 == "cf02c98852946bbb372ccb8b24c0e50d039ecda364fbf86c6dab43b78ea3d919"
    assert test.sha256 == "f22756add8149df5ba2eb730cf9406e4e5423ed60751c314a81362f510e3e0bb"
    assert (train.images.shape, train.labels.dtype) == ((60000, 1, 28, 28), np.int64)


@pytest.mark.parametrize("damage", ["another byte", "cut off", "other labels", "no labels"])
def test_a_damaged_store_is_named(tmp_path: Path, mnist_root: Path, damage: str) -> None:
    file = tmp_path / "mnist.npz"
    content = bytearray((mnist_root / "mnist.npz").read_bytes())
    content[len(content) // 3] ^= 1
    if damage.endswith("labels"):
        with np.load(mnist_root / "mnist.npz") as stored:
            arrays = {"train_images": stored["train_images"]}
            if damage == "other labels":
                arrays["train_labels"] = stored["train_labels"][::-1]
        np.savez(file, **arrays)
    else:
        file.write_bytes(content if damage == "another byte" else content[:-100])
    with pytest.raises(DataError, match=r"mnist\.npz is damaged.*spire data fetch mnist"):
        load_stored("mnist", tmp_path, "train")


def test_describe(tmp_path: Path, mnist_root: Path) -> None:
    state = describe("mnist", mnist_root)
    assert (state["present"], state["ok"], state["problem"]) == (True, True, None)
    assert (state["train"], state["test"]) == (60000, 10000)
    assert state["bytes"] == Path(state["path"]).stat().st_size
    absent = describe("mnist", tmp_path)
    assert (absent["present"], absent["ok"], absent["bytes"]) == (False, False, 0)
    (tmp_path / "mnist.npz").write_bytes(b"x")
    damaged = describe("mnist", tmp_path)
    assert (damaged["present"], damaged["ok"], damaged["test"]) == (True, False, 0)


@pytest.mark.parametrize("size", [4, 8, 12, 16, 20, 48])
def test_constant_images_stay_constant(size: int) -> None:
    images = np.full((3, 2, 16, 16), 77, np.uint8)
    assert (resized(images, size) == 77).all()
    assert resized(images, size).shape == (3, 2, size, size)


def test_area_average_by_hand() -> None:
    image = np.array([[0, 1, 10, 20], [1, 4, 30, 41], [255, 255, 0, 0], [255, 255, 0, 2]], np.uint8)
    # means 6/4, 101/4, 255 and 2/4; halves round up
    assert resized(image[None, None], 2).tolist() == [[[[2, 25], [255, 1]]]]


def test_28_is_padded_to_32_with_zeros_around() -> None:
    images = np.random.default_rng(0).integers(1, 256, (2, 1, 28, 28), dtype=np.uint8)
    padded = resized(images, None)
    np.testing.assert_array_equal(padded[:, :, 2:30, 2:30], images)
    assert padded.sum() == images.sum()
    np.testing.assert_array_equal(resized(images, 32), padded)
    np.testing.assert_array_equal(resized(images, 16), resized(padded, 16))


def test_resizing_to_the_same_size_is_the_identity() -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 32, 32), dtype=np.uint8)
    np.testing.assert_array_equal(resized(images, 32), images)
    np.testing.assert_array_equal(resized(images, None), images)


@pytest.mark.parametrize("size", [8, 12, 20])
def test_many_images_are_resized_as_few_are(size: int) -> None:
    images = np.random.default_rng(0).integers(0, 256, (11000, 3, 16, 16), dtype=np.uint8)
    np.testing.assert_array_equal(resized(images, size)[-3:], resized(images[-3:], size))


def test_bilinear_resizing_equals_pillow() -> None:
    image = np.random.default_rng(0).integers(0, 256, (32, 32), dtype=np.uint8)
    pillow = np.asarray(Image.fromarray(image).resize((12, 12), Image.Resampling.BILINEAR))
    ours = resized(image[None, None], 12)[0, 0]
    assert np.abs(ours.astype(int) - pillow).max() <= 1  # Pillow rounds between its two passes
