"""Data sets of other packages: captions that are no list of texts are refused in a sentence."""

import numpy as np
import pytest

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


def test_captions_may_come_as_an_array() -> None:
    listed, array = loaded(["a", "b"]), loaded(np.array(["a", "b"]))
    assert listed.captions == array.captions == ("a", "b")
    assert listed.sha256 == array.sha256
