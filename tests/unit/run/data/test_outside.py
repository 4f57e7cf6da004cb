"""Data sets of other packages: captions that are no list of texts are refused in a sentence."""

import re
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.config.data import OTHER_DATASETS
from pipeline.data.outside import OutsideImages, load_outside
from spire_core.errors import DataError

IMAGES = np.zeros((2, 1, 4, 4), np.uint8)


@pytest.fixture(autouse=True)
def nothing_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OTHER_DATASETS, "_found", {})


def loaded(captions: object) -> OutsideImages:
    """Return what is loaded of a package whose function returns these captions."""
    found = OutsideImages(IMAGES, np.zeros(2, np.int64), ("a",), captions)  # type: ignore[arg-type]
    OTHER_DATASETS.register("captioned", lambda split, path: found, "0")
    return load_outside("captioned", "train", None)


@pytest.mark.parametrize("captions", ["ab", [1, 2], ["a", None], 2])
def test_captions_that_are_no_list_of_texts_are_refused(captions: object) -> None:
    with pytest.raises(DataError, match="expected captions as a list of texts of the data set"):
        loaded(captions)
    with pytest.raises(DataError, match="expected a caption and an owner for each image"):
        loaded(["a"])


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({"owners": "ab"}, "owners as a list of texts"),
        ({"owners": ["a", None]}, "owners as a list of texts"),
        ({"owners": np.array([0.0, 1.0])}, "owners as a list of texts"),
        ({"class_names": [3]}, "class_names as a list of texts"),
        ({"class_names": "a"}, "class_names as a list of texts"),
    ],
)
def test_owners_and_classes_that_are_no_list_of_texts_are_refused(
    more: dict[str, Any], expected: str
) -> None:
    with pytest.raises(DataError, match=f"expected {expected} of the data set captioned"):
        with_more(**more)


def with_more(**more: Any) -> OutsideImages:
    """Return what is loaded of a package whose function returns such images."""
    found = OutsideImages(**{"images": IMAGES, "labels": [0, 0], "class_names": ("a",)} | more)
    OTHER_DATASETS.register("captioned", lambda split, path: found, "0")
    return load_outside("captioned", "train", None)


@pytest.mark.parametrize(
    ("more", "got"),
    [
        ({"images": IMAGES / 255}, "got float64 (2, 1, 4, 4): "),
        ({"images": IMAGES[:, :, :2]}, "got uint8 (2, 1, 2, 4): "),
        ({"images": [[1], [1, 2]]}, "got ValueError: "),
        ({"labels": [0.0, 1.0]}, "got float64 (2,) with 2 images: "),
        ({"labels": [0, 1]}, "got 0..1 with 1 names: "),
        ({"class_names": "a"}, "got 'a': "),
        ({"owners": ["a"]}, "got 1 with 2 images: "),
    ],
)
def test_what_came_in_place_of_images_is_named(more: dict[str, Any], got: str) -> None:
    with pytest.raises(DataError, match=re.escape(f"of the data set captioned (train), {got}")):
        with_more(**more)


def test_the_type_of_something_else_is_named() -> None:
    OTHER_DATASETS.register("captioned", lambda split, path: (IMAGES, [0, 0]), "0")
    with pytest.raises(DataError, match=r"an OutsideImages of the data set .*, got tuple: docs"):
        load_outside("captioned", "train", None)


@pytest.mark.parametrize("owners", [["b", "a"], [7, 5]])
def test_owners_and_images_may_come_as_arrays(owners: list) -> None:
    listed = with_more(owners=owners)
    array = with_more(
        images=torch.from_numpy(IMAGES), owners=np.array(owners), class_names=np.array(["a"])
    )
    assert listed.sha256 == array.sha256
    assert isinstance(array.images, np.ndarray)
    for found in (listed, array):
        assert found.clients is not None
        assert found.clients.names == tuple(sorted(map(str, owners)))
        assert found.clients.owner.tolist() == [1, 0]


def test_captions_may_come_as_an_array() -> None:
    listed, array = loaded(["a", "b"]), loaded(np.array(["a", "b"]))
    assert listed.captions == array.captions == ("a", "b")
    assert listed.sha256 == array.sha256
