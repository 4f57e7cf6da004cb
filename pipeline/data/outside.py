"""Data sets that other packages bring: what their function returns, checked and hashed.

The entry point `spire.datasets` names a function `load(split, path)`. `split` is "train" or "test",
`path` the setting `data.path`, None unless it is set.
"""

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.config.data import OTHER_DATASETS
from pipeline.data.hashes import combined, sha256_of
from spire_core.errors import DataError, SpireError
from spire_core.network.words import are_captions
from spire_core.partition.natural import NaturalClients


@dataclass(frozen=True, eq=False)
class OutsideImages:
    """One split: images (N, C, S, S) uint8 with C of 1 or 3, and their classes (N,).

    `labels` are positions in `class_names`. `captions` (N) say what images show, `owners` (N) which
    client holds them; both are optional.
    """

    images: np.ndarray
    labels: np.ndarray
    class_names: Sequence[str]
    captions: Sequence[str] | None = None
    owners: Sequence[str] | None = None

    @property
    def sha256(self) -> str:
        """The SHA-256 of all of it."""
        texts = [list(self.class_names), self.captions and list(self.captions)]
        arrays = map(sha256_of, (self.images, self.labels))
        return combined(*arrays, json.dumps([*texts, self.owners and list(self.owners)]))

    @property
    def clients(self) -> NaturalClients | None:
        """The owners in the order of their names; None if images have none."""
        if self.owners is None:
            return None
        names, owner = np.unique(np.asarray(self.owners, dtype=str), return_inverse=True)
        return NaturalClients(tuple(names.tolist()), owner.astype(np.int64))


def load_outside(name: str, split: str, path: str | None) -> OutsideImages:
    """Return a split of a package's data set, its labels as int64.

    DataError if the package's function fails, or returns something else.
    """
    plugin = OTHER_DATASETS.find(name)
    if plugin is None:
        raise DataError(f"expected the package of the data set {name}, got none here: install it")
    try:
        found = plugin.value(split, path)
        fault = _fault(found)
    except SpireError:
        raise
    except Exception as error:  # a stranger's code can raise anything
        reason = f"{type(error).__name__}: {error}"
        raise DataError(
            f"expected images of the data set {name} ({split}), got {reason}: mend its function"
        ) from error
    if fault is not None:
        expected, got = fault
        raise DataError(
            f"expected {expected} of the data set {name} ({split}), got {got}: docs/extending.md "
            "has an example"
        )
    images, labels = np.asarray(found.images), np.asarray(found.labels, dtype=np.int64)
    captions = None if found.captions is None else tuple(found.captions)
    owners = None if found.owners is None else tuple(map(_plain, found.owners))
    return OutsideImages(images, labels, tuple(found.class_names), captions, owners)


def _plain(owner: Any) -> Any:
    """Return an owner, a text or a whole number, as Python's own."""
    return owner.item() if isinstance(owner, np.generic) else owner


def _are_owners(values: object) -> bool:
    """Return whether values are a list of texts or of whole numbers."""
    if isinstance(values, str | bytes) or not isinstance(values, Collection):
        return False
    return all(isinstance(value, str | int | np.integer) for value in values)


def _fault(found: object) -> tuple[str, str] | None:
    """Return what was expected of a function's result and what came, None if it is right."""
    if not isinstance(found, OutsideImages):
        return "an OutsideImages", type(found).__name__
    images, labels = np.asarray(found.images), np.asarray(found.labels)
    shape = f"{images.dtype} {images.shape}"
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
        return "images uint8 (N, 1 or 3, S, S)", shape
    if images.shape[2] != images.shape[3] or not len(images):
        return "square images, at least one,", shape
    if not are_captions(found.class_names):
        return "class_names as a list of texts", f"{found.class_names!r:.80}"
    positions = "labels (N,) that are positions in class_names"
    if labels.dtype.kind not in "iu" or labels.shape != images.shape[:1]:
        return positions, f"{labels.dtype} {labels.shape} with {len(images)} images"
    if labels.min() < 0 or labels.max() >= len(found.class_names):
        return positions, f"{labels.min()}..{labels.max()} with {len(found.class_names)} names"
    return _texts_fault(found, len(images))


def _texts_fault(found: OutsideImages, num_images: int) -> tuple[str, str] | None:
    """Return the same of the captions and the owners."""
    if found.captions is not None and not are_captions(found.captions):
        return "captions as a list of texts", f"{found.captions!r:.80}"
    if found.owners is not None and not _are_owners(found.owners):
        return "owners as a list of texts", f"{found.owners!r:.80}"
    for texts in (found.captions, found.owners):
        if texts is not None and len(texts) != num_images:
            got = f"{len(texts)} with {num_images} images"
            return "a caption and an owner for each image, or none at all,", got
    return None
