"""Data sets that other packages bring: what their function returns, checked.

The entry point `spire.datasets` names a function `load(split, path)`. `split` is "train" or "test",
`path` the setting `data.path`, None unless it is set.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from pipeline.config.data import OTHER_DATASETS
from spire_core.errors import DataError


@dataclass(frozen=True, eq=False)
class OutsideImages:
    """One split: images (N, C, S, S) uint8 with C of 1 or 3, and their classes (N,).

    `labels` are positions in `class_names`. `captions` (N) say what images show, `owners` (N) which
    client holds them; both are optional. Lists and arrays are taken.
    """

    images: np.ndarray
    labels: np.ndarray
    class_names: Sequence[str]
    captions: Sequence[str] | None = None
    owners: Sequence[str] | None = None


def load_outside(name: str, split: str, path: str | None) -> OutsideImages:
    """Return a split of a package's data set as arrays; DataError if it does not fit."""
    plugin = OTHER_DATASETS.find(name)
    assert plugin is not None  # as the configuration checks
    found = plugin.value(split, path)
    images, labels, names = np.asarray(found.images), np.asarray(found.labels), found.class_names
    shape, num_images = images.shape, len(images)
    is_square = len(shape) == 4 and num_images > 0 and shape[1] in (1, 3) and shape[2] == shape[3]
    expected = "images uint8 (N, C, S, S) with 1 or 3 channels"
    _require(is_square and images.dtype == np.uint8, expected, f"{images.dtype} {shape}")
    is_met = labels.shape == (num_images,) and {*labels.tolist()} <= {*range(len(names))}
    expected = f"{num_images} labels that are positions in {len(names)} class_names"
    _require(is_met, expected, f"{labels.shape} of {np.unique(labels)}")
    for name in ("captions", "owners"):
        texts = getattr(found, name)
        is_met = texts is None or (not isinstance(texts, str) and len(texts) == num_images)
        _require(is_met, f"{name} as a list of {num_images} texts", repr(texts))
    return replace(found, images=images, labels=labels.astype(np.int64))


def _require(is_met: bool, expected: str, got: str) -> None:
    if not is_met:
        raise DataError(f"expected {expected}, got {got:.80}: docs/extending.md has an example")
