"""Data sets of other packages: what is no split of images is refused."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.config.data import OTHER_DATASETS, DataConfig
from pipeline.data.datasets import ImageData, load_clients
from pipeline.data.outside import OutsideImages
from spire_core.errors import DataError

IMAGES = np.zeros((2, 1, 4, 4), np.uint8)


@pytest.fixture
def outside(monkeypatch: pytest.MonkeyPatch) -> Callable[..., ImageData]:
    """Reads a split of a data set that this process has registered."""

    def read(**more: Any) -> ImageData:
        monkeypatch.setattr(OTHER_DATASETS, "_found", {})
        fields = {"images": IMAGES, "labels": [0, 0], "class_names": ("a",)} | more
        OTHER_DATASETS.register("other", lambda split, path: OutsideImages(**fields), "0")
        return load_clients(DataConfig("other"))

    return read


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({"images": IMAGES / 255}, r"images uint8 \(N, C, S, S\) .*, got float64"),
        ({"labels": [0, 1]}, "2 labels that are positions in 1 class_names"),
        ({"captions": "ab"}, "captions as a list of 2 texts"),
        ({"owners": ["a"]}, "owners as a list of 2 texts"),
    ],
)
def test_what_does_not_fit_is_refused(
    outside: Callable[..., ImageData], more: dict[str, Any], expected: str
) -> None:
    with pytest.raises(DataError, match=expected):
        outside(**more)


@pytest.mark.parametrize("owners", [["b", "a"], [7, 5]])
def test_lists_may_come_as_arrays(outside: Callable[..., ImageData], owners: list) -> None:
    listed = outside(owners=owners, captions=["a", "b"])
    array = outside(
        images=torch.from_numpy(IMAGES),
        owners=np.array(owners),
        class_names=np.array(["a"]),
        captions=np.array(["a", "b"]),
    )
    assert listed.sha256 == array.sha256 != outside(owners=owners).sha256
    assert isinstance(array.images, np.ndarray)
    for found in (listed, array):
        assert found.clients is not None
        assert found.clients.names == tuple(sorted(map(str, owners)))
        assert found.clients.owner.tolist() == [1, 0]
