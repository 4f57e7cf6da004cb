"""Data sets in memory, loaded from the store or from a folder of images, and verified.

A stored data set is a folder `<root>/<name>/` with four arrays, `train_images.npy`,
`train_labels.npy`, `test_images.npy` and `test_labels.npy`, which `pipeline.data.fetch` puts there.
Images are (N, C, H, W) uint8 at their original size, labels (N,) int64. The fonts are stored as
`pipeline.data.font_store` says.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.config.data import DataConfig, is_outside
from pipeline.data.catalog import DatasetSpec, dataset_spec
from pipeline.data.channels import in_channels
from pipeline.data.client_folder import FolderImages, load_client_folders, load_listed
from pipeline.data.font_store import SIZES, load_fonts
from pipeline.data.glyphs import CHARACTERS, arriving, caption_of
from pipeline.data.hashes import combined, sha256_of
from pipeline.data.image_folder import load_folder
from pipeline.data.outside import OutsideImages, load_outside
from pipeline.files.damage import DAMAGE
from pipeline.files.paths import base_folder, lasting
from spire_core.errors import ConfigError, DataError, SplitError
from spire_core.partition.natural import NaturalClients

SPLITS = ("train", "test")


@dataclass(frozen=True, eq=False)
class ImageData:
    """One split of a data set, or all of it, with the SHA-256 of its content.

    images (N, C, H, W) uint8, those of a stored data set read-only and mapped from disk; labels
    (N,) int64. `captions` (N) and the clients that exist are None where the data have none.
    """

    name: str
    images: np.ndarray = field(repr=False)
    labels: np.ndarray = field(repr=False)
    class_names: tuple[str, ...]
    sha256: str
    split: str
    captions: tuple[str, ...] | None = field(default=None, repr=False)
    clients: NaturalClients | None = field(default=None, repr=False)


def store_root(root: str | Path | None = None) -> Path:
    """Return the folder of stored data sets: `root`, else $SPIRE_DATA, else data in the base."""
    given = root or os.environ.get("SPIRE_DATA")
    name = "data.root" if root else "SPIRE_DATA"
    return lasting(given, name) if given else base_folder() / "data"


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
    if is_outside(config.name):
        found = load_outside(config.name, split, config.path)
        return replace(_of_package(config.name, found, split), clients=None)
    if config.name != "folder":
        return load_stored(config.name, store_root(config.root), split, config.image_size)
    path, size = _folder(config)
    if config.metadata is not None:
        found = _listed(config, config.metadata)
        is_test = found.clients.is_test
        no_test = np.zeros(len(found.labels), dtype=bool)
        held_out = no_test if is_test is None else is_test
        return _of_split(_with_clients(config, found), held_out, split)
    images, labels, class_names = load_folder(path, split, size)
    images = in_channels(images, config.channels)
    sha256 = combined(sha256_of(images), sha256_of(labels))
    return ImageData("folder", images, labels, class_names, sha256, split)


def load_clients(config: DataConfig) -> ImageData:
    """Return the configured data set with the clients that exist in it, both splits in one.

    Raises ConfigError for a data set without clients, DataError as `load` does.
    """
    if config.name == "fonts":
        return _all_fonts(dataset_spec("fonts"), store_root(config.root), config.image_size)[0]
    if is_outside(config.name):
        data = _of_package(config.name, load_outside(config.name, "train", config.path), "train")
        if data.clients is None:
            raise ConfigError(
                f"expected owners of the images with partition=natural, got {config.name} without: "
                "choose another partition"
            )
        return data
    if config.name != "folder":
        raise ConfigError(
            f"expected data with clients of its own, fonts or folder, got {config.name}: choose "
            "another data.name, or a partition that deals images out"
        )
    if config.metadata is None:
        return _with_clients(config, load_client_folders(*_folder(config)))
    return _with_clients(config, _listed(config, config.metadata))


def _of_package(name: str, found: OutsideImages, split: str) -> ImageData:
    captions = None if found.captions is None else tuple(found.captions)
    names, more = tuple(found.class_names), (captions, found.clients)
    return ImageData(name, found.images, found.labels, names, found.sha256, split, *more)


def _listed(config: DataConfig, metadata: str) -> FolderImages:
    path, size = _folder(config)
    return load_listed(path, metadata, (config.clients, config.captions), size)


def _folder(config: DataConfig) -> tuple[str, int]:
    if config.path is None or config.image_size is None:
        raise ConfigError("expected data.path and data.image_size with data.name=folder")
    return config.path, config.image_size


def _with_clients(config: DataConfig, found: FolderImages) -> ImageData:
    """Return the user's own images with a hash of images, labels, captions and clients."""
    clients, images = found.clients, in_channels(found.images, config.channels)
    arrays = [images, found.labels, clients.owner]
    arrays += [] if clients.is_test is None else [clients.is_test]
    texts = json.dumps([clients.names, found.class_names, found.captions])
    sha256 = combined(*map(sha256_of, arrays), texts)
    names, captions = found.class_names, found.captions
    return ImageData("folder", images, found.labels, names, sha256, "all", captions, clients)


def _of_split(data: ImageData, is_test: np.ndarray, split: str) -> ImageData:
    """Return the images of one split without their clients, by a mask (N,) of the test split."""
    chosen = np.flatnonzero(is_test == (split == "test"))
    if len(chosen) == 0:
        raise SplitError(f"expected images in the {split} split of {data.name}, got none: add some")
    captions = None if data.captions is None else tuple(data.captions[i] for i in chosen)
    return replace(
        data,
        images=data.images[chosen],
        labels=data.labels[chosen],
        sha256=combined(data.sha256, split),
        split=split,
        captions=captions,
        clients=None,
    )


def load_stored(
    name: str | DatasetSpec, root: Path, split: str, image_size: int | None = None
) -> ImageData:
    """Return one split of a fetched data set, verified on every call (CIFAR-10: 0.1-0.2 s).

    Fonts are drawn for some sizes; `image_size` chooses among them, and the test split has the
    fonts that only new clients may be. Raises DataError when the data set was not fetched or when a
    file is damaged, naming the file.
    """
    spec = dataset_spec(name)
    if spec.layout == "fonts":
        return _of_split(*_all_fonts(spec, root, image_size), split)
    _require_stored(spec, root)
    images, labels = (_stored_array(spec, root, f"{split}_{kind}") for kind in ("images", "labels"))
    sha256 = combined(*spec.sha256[f"{split}_images"], *spec.sha256[f"{split}_labels"])
    return ImageData(spec.name, images, labels, spec.class_names, sha256, split)


def stored_splits(spec: DatasetSpec, root: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Yield each split's images (N, C, H, W), at every size that is stored; raises as they do."""
    for size in SIZES if spec.layout == "fonts" else (None,):
        for split in SPLITS:
            yield split, load_stored(spec, root, split, size).images


def _require_stored(spec: DatasetSpec, root: Path) -> None:
    if not (root / spec.name).is_dir():
        raise DataError(
            f"expected the data set {spec.name} in {root / spec.name}, got nothing there: "
            f"run `spire data fetch {spec.name}`"
        )


def _all_fonts(
    spec: DatasetSpec, root: Path, image_size: int | None
) -> tuple[ImageData, np.ndarray]:
    """Return all fonts, each as one client, and which images belong to the test split (N,)."""
    _require_stored(spec, root)
    stored = load_fonts(root / spec.name, image_size)
    captions = tuple(map(caption_of, CHARACTERS)) * len(stored.names)
    fields = (stored.images, stored.labels, spec.class_names, stored.sha256, "all")
    data = ImageData(spec.name, *fields, captions, stored.clients)
    return data, arriving(stored.names)[stored.clients.owner]


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


def describe(name: str | DatasetSpec, root: str | Path | None = None) -> dict[str, Any]:
    """Return the state of a fetched data set as plain values.

    Keys: name, path, present, ok (every array has its SHA-256), problem (one sentence or None),
    train and test (numbers of intact images), bytes (on disk).
    """
    spec, root = dataset_spec(name), store_root(root)
    files = sorted((root / spec.name).glob("*.npy"))
    counts, problem = {str(split): 0 for split in SPLITS}, None
    try:
        for split, images in stored_splits(spec, root):
            counts[split] = len(images)
    except DataError as error:
        counts, problem = {str(split): 0 for split in SPLITS}, str(error)
    return {
        "name": spec.name,
        "path": str(root / spec.name),
        "present": (root / spec.name).is_dir(),
        "ok": problem is None,
        "problem": problem,
        **counts,
        "bytes": sum(file.stat().st_size for file in files),
    }
