"""The test split as a reference: which one it is, and where there is none."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.config.load import load_config
from pipeline.config.schema import Config
from pipeline.data.datasets import load
from pipeline.data.resize import resized
from pipeline.federation.setup import prepare
from spire_core.errors import DataError

WORDS = ["eval.reference=test_split", "partition=iid", "federation.num_clients=2"]
WORDS += ["federation.num_new_clients=1", "federation.cohort_size=2", "model.multipliers=[1]"]
WORDS += ["resources.pool=local", "partition.min_size=2", "data.image_size=8"]
WORDS += ["eval.extractor=cifar10-cnn"]


def write_images(folder: Path, num: int, seed: int, is_grey: bool = False) -> None:
    folder.mkdir(parents=True)
    shape = (num, 8, 8) if is_grey else (num, 8, 8, 3)
    for i, image in enumerate(np.random.default_rng(seed).integers(0, 256, shape, np.uint8)):
        Image.fromarray(image).save(folder / f"{i}.png")


def folder_config(folder: Path, *words: str) -> Config:
    return load_config("smoke", [*WORDS, "data.name=folder", f"data.path={folder}", *words])


def test_it_is_the_data_sets_own_at_the_size_of_the_run(mnist_root: Path) -> None:
    words = ["eval.reference=test_split", f"data.root={mnist_root}"]
    setup = prepare(load_config("smoke", words))
    expected = load(setup.config.data, "test")
    assert setup.reference is not None
    assert np.array_equal(setup.reference.images, resized(expected.images, 16))
    assert np.array_equal(setup.reference.labels, expected.labels)
    assert setup.hashes["reference_sha256"] == expected.sha256 != setup.data.sha256
    assert setup.images.shape[1:] == setup.reference.images.shape[1:]


def test_without_use_for_it_none_is_loaded(mnist_root: Path) -> None:
    for words in (["eval.reference=heldout"], ["eval.reference=test_split", "eval.extractor=none"]):
        setup = prepare(load_config("smoke", [*words, f"data.root={mnist_root}"]))
        assert setup.reference is None
        assert "reference_sha256" not in setup.hashes


def test_a_folders_test_split_has_the_channels_of_the_other(tmp_path: Path) -> None:
    for kind in ("cats", "dogs"):
        write_images(tmp_path / "train" / kind, 30, 0)
        write_images(tmp_path / "test" / kind, 10, 1, is_grey=True)
    setup = prepare(folder_config(tmp_path))
    assert setup.reference is not None
    assert setup.reference.images.shape == (20, 3, 8, 8)


def test_a_folder_without_enough_images_or_named_splits_has_no_test_split(tmp_path: Path) -> None:
    for kind in map(str, range(24)):
        write_images(tmp_path / "one" / kind, 1, int(kind))
    write_images(tmp_path / "named" / "all", 24, 0)
    rows = [f"all/{i}.png,ann" for i in range(24)]
    (tmp_path / "named" / "metadata.csv").write_text("\n".join(["path,client", *rows]))
    for folder, words in (("one", []), ("named", ["data.metadata=metadata.csv"])):
        with pytest.raises(DataError, match="expected images in the test split of"):
            prepare(folder_config(tmp_path / folder, *words))


def test_a_test_split_with_too_few_images_of_a_clients_classes_is_refused(tmp_path: Path) -> None:
    for kind in ("cats", "dogs"):
        write_images(tmp_path / "train" / kind, 30, 0)
        write_images(tmp_path / "test" / kind, 1, 1)
    with pytest.raises(DataError, match=r"at least 4 real images .* got [23] for"):
        prepare(folder_config(tmp_path))
