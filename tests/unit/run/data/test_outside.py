"""Data sets of other packages: what is no split of images is refused."""

from typing import Any

import numpy as np
import pytest
import torch

from pipeline.config.data import OTHER_DATASETS
from pipeline.data.outside import OutsideImages, load_outside
from spire_core.errors import DataError

IMAGES = np.zeros((2, 1, 4, 4), np.uint8)


def outside(**more: Any) -> OutsideImages:
    return OutsideImages(**{"images": IMAGES, "labels": [0, 0], "class_names": ("a",)} | more)


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({"images": IMAGES / 255}, r"images uint8 \(N, C, S, S\), got float64"),
        ({"images": IMAGES[:, :, :2]}, "1 or 3 square channels"),
        ({"labels": [0, 1]}, "2 labels that are positions in 1 class_names"),
        ({"labels": [0]}, "2 labels that are positions"),
        ({"class_names": "a"}, "class_names as a list of texts"),
        ({"captions": ["a"]}, "captions as a list of 2 texts"),
        ({"captions": "ab"}, "captions as a list of 2 texts"),
        ({"captions": ["a", None]}, "captions as a list of 2 texts"),
        ({"owners": ["a"]}, "owners as a list of 2 texts"),
        ({"owners": ["a", None]}, "owners as a list of 2 texts"),
    ],
)
def test_what_does_not_fit_is_refused(more: dict[str, Any], expected: str) -> None:
    with pytest.raises(DataError, match=expected):
        outside(**more)


def test_a_function_that_returns_something_else_is_told_of(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(OTHER_DATASETS, "_found", {})
    OTHER_DATASETS.register("other", lambda split, path: (IMAGES, [0, 0]), "0")
    with pytest.raises(DataError, match="expected an OutsideImages, got tuple"):
        load_outside("other", "train", None)


@pytest.mark.parametrize("owners", [["b", "a"], [7, 5]])
def test_lists_may_come_as_arrays(owners: list) -> None:
    listed = outside(owners=owners, captions=["a", "b"])
    array = outside(
        images=torch.from_numpy(IMAGES),
        owners=np.array(owners),
        class_names=np.array(["a"]),
        captions=np.array(["a", "b"]),
    )
    assert listed.sha256 == array.sha256 != outside().sha256
    assert isinstance(array.images, np.ndarray)
    for found in (listed, array):
        assert found.clients is not None
        assert found.clients.names == tuple(sorted(map(str, owners)))
        assert found.clients.owner.tolist() == [1, 0]
