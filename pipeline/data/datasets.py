"""Data sets in memory, loaded from the store or from a folder of images, and verified.

A stored data set is a folder `<root>/<name>/` with four arrays, `train_images.npy`,
`train_labels.npy`, `test_images.npy` and `test_labels.npy`, which `pipeline.data.fetch` puts there.
Images are (N, C, H, W) uint8 at their original size, labels (N,) int64.
"""

import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.config.data import DataConfig
from pipeline.data.catalog import DatasetSpec, dataset_spec
from pipeline.data.image_folder import load_folder
from pipeline.files.damage import DAMAGE
from pipeline.files.paths import base_folder, lasting
from spire_core.errors import ConfigError, DataError

SPLITS = ("train", "test")


@dataclass(frozen=True, eq=False)
class ImageData:
    """One split of a data set, with the SHA-256 of both arrays.

    images (N, C, H, W) uint8, those of a stored data set read-only and mapped from disk; labels
    (N,) int64.
    """

    name: str
    images: np.ndarray = field(repr=False)
    labels: np.ndarray = field(repr=False)
    class_names: tuple[str, ...]
    sha256: str
    split: str


def store_root(root: str | Path | None = None) -> Path:
    """Return the folder of stored data sets: `root`, else $SPIRE_DATA, else data in the base."""
    given = root or os.environ.get("SPIRE_DATA")
    name = "data.root" if root else "SPIRE_DATA"
    return lasting(given, name) if given else base_folder() / "data"


def sha256_of(*arrays: np.ndarray) -> str:
    """Return the SHA-256 of the arrays' bytes in C order, one after the other."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def mismatch(spec: DatasetSpec, array_name: str, part: int, array: np.ndarray) -> str | None:
    """Return the fault of one part of an array such as "train_images", or None if it is right."""
    split, kind = array_name.split("_")
    hashes = spec.sha256[array_name]
    size = spec.counts[split] // len(hashes)
    shape, dtype = ((size, *spec.image_shape), "uint8") if kind == "images" else ((size,), "int64")
    want = f"{dtype}{list(shape)} with SHA-256 {hashes[part]}"
    got = f"{array.dtype}{list(array.shape)} with SHA-256 {sha256_of(array)}"
    return None if got == want else f"expected {want}, got {got}"


def load(config: DataConfig, split: str) -> ImageData:
    """Return one split ("train" or "test") of the configured data set, at its stored size.

    A model sees `resized(data.images, config.image_size)`. Raises DataError when the data set was
    not fetched, is damaged, or is not a folder of images.
    """
    if split not in SPLITS:
        raise DataError(f"expected the split train or test, got {split!r}")
    if config.name != "folder":
        return load_stored(config.name, store_root(config.root), split)
    if config.path is None or config.image_size is None:
        raise ConfigError("expected data.path and data.image_size with data.name=folder")
    images, labels, class_names = load_folder(config.path, split, config.image_size)
    sha256 = _combined(sha256_of(images), sha256_of(labels))
    return ImageData("folder", images, labels, class_names, sha256, split)


def load_stored(name: str | DatasetSpec, root: Path, split: str) -> ImageData:
    """Return one split of a fetched data set, verified on every call (CIFAR-10: 0.1-0.2 s).

    Raises DataError when it was not fetched or when a file is damaged, naming the file.
    """
    spec = dataset_spec(name)
    if not (root / spec.name).is_dir():
        raise DataError(
            f"expected the data set {spec.name} in {root / spec.name}, got nothing there: "
            f"run `spire data fetch {spec.name}`"
        )
    images, labels = (_stored_array(spec, root, f"{split}_{kind}") for kind in ("images", "labels"))
    sha256 = _combined(*spec.sha256[f"{split}_images"], *spec.sha256[f"{split}_labels"])
    return ImageData(spec.name, images, labels, spec.class_names, sha256, split)


def _stored_array(spec: DatasetSpec, root: Path, array_name: str) -> np.ndarray:
    path = root / spec.name / f"{array_name}.npy"
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        parts = np.array_split(array, len(spec.sha256[array_name]))
        wrong = [mismatch(spec, array_name, i, part) for i, part in enumerate(parts)]
        if not any(wrong):
            return array
        problem = next(filter(None, wrong))
    except (*DAMAGE, OSError, MemoryError) as error:
        problem = f"it cannot be read ({error})"
    raise DataError(
        f"the stored file {path} is damaged: {problem}: run `spire data fetch {spec.name}`"
    )


def _combined(*digests: str) -> str:
    return hashlib.sha256("".join(digests).encode()).hexdigest()


def describe(name: str | DatasetSpec, root: str | Path | None = None) -> dict[str, Any]:
    """Return the state of a fetched data set as plain values.

    Keys: name, path, present, ok (every array has its SHA-256), problem (one sentence or None),
    train and test (numbers of intact images), bytes (on disk).
    """
    spec, root = dataset_spec(name), store_root(root)
    files = sorted((root / spec.name).glob("*.npy"))
    counts, problem = dict.fromkeys(SPLITS, 0), None
    try:
        for split in SPLITS:
            counts[split] = len(load_stored(spec, root, split).images)
    except DataError as error:
        problem = str(error)
    return {
        "name": spec.name,
        "path": str(root / spec.name),
        "present": (root / spec.name).is_dir(),
        "ok": problem is None,
        "problem": problem,
        **counts,
        "bytes": sum(file.stat().st_size for file in files),
    }
