"""Data sets that other packages bring: what their function returns, checked and hashed.

The entry point `spire.datasets` names a function `load(split, path)`. `split` is "train" or "test",
`path` the setting `data.path`, None unless it is set.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.config.data import OTHER_DATASETS
from pipeline.data.hashes import combined, sha256_of
from spire_core.errors import DataError
from spire_core.network.words import are_captions
from spire_core.partition.natural import NaturalClients


@dataclass(frozen=True, eq=False)
class OutsideImages:
    """One split: images (N, C, S, S) uint8 with C of 1 or 3, and their classes (N,).

    `labels` are positions in `class_names`. `captions` (N) say what images show, `owners` (N) which
    client holds them; both are optional. Lists and arrays are taken, and DataError raised for
    what does not fit.
    """

    images: np.ndarray
    labels: np.ndarray
    class_names: Sequence[str]
    captions: Sequence[str] | None = None
    owners: Sequence[str] | None = None

    def __post_init__(self) -> None:
        images, labels = np.asarray(self.images), np.asarray(self.labels)
        num_images, shape, names = len(images), images.shape, self.class_names
        _require(
            images.dtype == np.uint8 and images.ndim == 4 and num_images > 0,
            "images uint8 (N, C, S, S)",
            f"{images.dtype} {shape}",
        )
        _require(shape[1] in (1, 3) and shape[2] == shape[3], "1 or 3 square channels", str(shape))
        _require(are_captions(names), "class_names as a list of texts", repr(names))
        _require(
            labels.shape == (num_images,) and set(labels.tolist()) <= set(range(len(names))),
            f"{num_images} labels that are positions in {len(names)} class_names",
            f"{labels.shape} of {np.unique(labels)}",
        )
        captions, owners = self.captions, self.owners
        if captions is not None:
            is_met = are_captions(captions) and len(captions) == num_images
            _require(is_met, f"captions as a list of {num_images} texts", repr(captions))
            captions = tuple(captions)
        if owners is not None:
            found = np.asarray(owners)
            is_met = found.dtype.kind in "iuU" and found.shape == (num_images,)
            _require(is_met, f"owners as a list of {num_images} texts", repr(owners))
            owners = tuple(found.tolist())
        plain = {
            "images": images,
            "labels": labels.astype(np.int64),
            "class_names": tuple(names),
            "captions": captions,
            "owners": owners,
        }
        for name, value in plain.items():
            object.__setattr__(self, name, value)  # of a frozen record

    @property
    def sha256(self) -> str:
        """The SHA-256 of all of it."""
        texts = json.dumps([self.class_names, self.captions, self.owners])
        return combined(sha256_of(self.images), sha256_of(self.labels), texts)

    @property
    def clients(self) -> NaturalClients | None:
        """The owners in the order of their names; None if images have none."""
        if self.owners is None:
            return None
        names, owner = np.unique(np.asarray(self.owners, dtype=str), return_inverse=True)
        return NaturalClients(tuple(names.tolist()), owner.astype(np.int64))


def _require(is_met: bool, expected: str, got: str) -> None:
    if not is_met:
        raise DataError(f"expected {expected}, got {got:.80}: docs/extending.md has an example")


def load_outside(name: str, split: str, path: str | None) -> OutsideImages:
    """Return a split of a package's data set; DataError if its function returns something else."""
    plugin = OTHER_DATASETS.find(name)
    if plugin is None:
        raise DataError(f"expected the package of the data set {name}, got none here: install it")
    found = plugin.value(split, path)
    _require(isinstance(found, OutsideImages), "an OutsideImages", type(found).__name__)
    return found
