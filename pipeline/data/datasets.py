"""Data sets in memory, loaded from the store or from a folder of images, and verified.

A stored data set is a file `<root>/<name>.npz`, which `pipeline.data.fetch` writes. It has the
arrays `train_images`, `train_labels`, `test_images` and `test_labels`: images (N, C, H, W) uint8 at
their original size, labels (N,) int64. Of the fonts it has what `draw_fonts` draws.
"""

import fnmatch
import json
import os
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.config.data import DataConfig, is_outside
from pipeline.data.catalog import SPECS
from pipeline.data.glyphs import CHARACTERS, SIZES, arriving, caption_of
from pipeline.data.hashes import combined, sha256_of
from pipeline.data.image_folder import (
    NO_CLASS,
    SPLITS,
    class_rows,
    client_rows,
    decoded,
    image_base,
    listed_rows,
)
from pipeline.data.outside import load_outside
from pipeline.files.paths import base_folder, lasting
from spire_core.errors import ConfigError, DataError
from spire_core.network.words import composed, words_of
from spire_core.partition.natural import NaturalClients


@dataclass(frozen=True, eq=False)
class ImageData:
    """One split of a data set, or all of it, with the SHA-256 of its content.

    images (N, C, H, W) uint8; labels (N,) int64. `captions` (N) and the clients that exist are None
    where the data have none.
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


def stored_file(name: str, root: Path) -> Path:
    """Return the file of a public data set, stored or not."""
    return root / f"{name}.npz"


def load(config: DataConfig, split: str) -> ImageData:
    """Return one split ("train" or "test") of the configured data set, at its stored size.

    A model sees `resized(data.images, config.image_size)`. Raises DataError when the data set was
    not fetched, is damaged, is not a folder of images, or has no images in the split.
    """
    if is_outside(config.name):
        return replace(_of_package(config, split), clients=None)
    if config.name != "folder":
        return load_stored(config.name, store_root(config.root), split, config.image_size)
    if config.metadata is not None:
        return _of_split(_own_images(config), split)
    base = image_base(str(config.path))
    rows = class_rows(base)
    class_names, labels = _numbered(row.class_name for row in rows)
    chosen = np.flatnonzero([row.split == split for row in rows])
    _require_some(chosen, split, base)
    images, kept = decoded([base / rows[i].path for i in chosen], config)
    labels = labels[chosen][kept]
    sha256 = combined(sha256_of(images), sha256_of(labels))
    return ImageData("folder", images, labels, class_names, sha256, split)


def load_clients(config: DataConfig) -> ImageData:
    """Return the configured data set with the clients that exist in it, both splits in one.

    Raises ConfigError for a data set without clients, DataError as `load` does.
    """
    if config.name == "folder":
        return _own_images(config)
    if config.name == "fonts":
        return _all_fonts(store_root(config.root), config.image_size)
    data = _of_package(config, "train")
    if data.clients is None:
        raise ConfigError(
            f"expected data with owners for partition=natural, got none in {config.name}: choose a "
            "partition that deals images out"
        )
    return data


def load_stored(name: str, root: Path, split: str, image_size: int | None = None) -> ImageData:
    """Return one split of a public data set, verified on every call (CIFAR-10: 0.3 s).

    Fonts are drawn for some sizes; `image_size` chooses among them, and the test split has the
    fonts that only new clients may be. Raises DataError when the data set was not fetched, or when
    its file is damaged.
    """
    if name == "fonts":
        return _of_split(_all_fonts(root, image_size), split)
    spec = SPECS[name]
    images, labels = _stored(name, root, (f"{split}_images", f"{split}_labels"))
    sha256 = combined(*spec.sha256[f"{split}_images"], *spec.sha256[f"{split}_labels"])
    return ImageData(name, images, labels, spec.class_names, sha256, split)


def describe(name: str, root: str | Path | None = None) -> dict[str, Any]:
    """Return the state of a public data set as plain values.

    Keys: name, path, present, ok (the file is intact), problem (one sentence or None).
    """
    path, problem = stored_file(name, store_root(root)), None
    try:
        for split in SPLITS:
            load_stored(name, path.parent, split)
    except DataError as error:
        problem = str(error)
    state = {"name": name, "path": str(path), "present": path.exists()}
    return state | {"ok": problem is None, "problem": problem}


def check_array(name: str, key: str, array: np.ndarray) -> None:
    """Raise DataError if an array of a public data set, such as "train_images", is another one."""
    hashes = SPECS[name].sha256.get(key)
    if hashes is None:  # of glyphs, whose font files are compared before they are drawn
        return
    for part, want in zip(np.array_split(array, len(hashes)), hashes, strict=True):
        if (got := sha256_of(part)) != want:
            raise DataError(f"expected {key} of {name} with SHA-256 {want}, got {got}")


def is_class(pattern: str, class_names: Sequence[str]) -> bool:
    """Return whether an entry of `partition.hidden` is the name of a class.

    Names that look the same are the same: they are compared in Unicode's composed form.
    """
    return composed(pattern) in map(composed, class_names)


def fitting(
    pattern: str, labels: np.ndarray, class_names: Sequence[str], captions: Sequence[str] | None
) -> np.ndarray:
    """Return which images (N,) are of the class of this name, or else have a caption that fits.

    `labels` (N,) are positions in `class_names`, -1 for another class. Captions are compared by
    their words, as a network with text reads them.
    """
    if same := [i for i, name in enumerate(class_names) if is_class(pattern, [name])]:
        return np.isin(labels, same)
    if captions is None:
        return np.zeros(len(labels), dtype=bool)
    wanted = " ".join(words_of(pattern))
    texts = {caption: " ".join(words_of(caption)) for caption in {*captions}}
    kinds = {caption for caption, text in texts.items() if fnmatch.fnmatchcase(text, wanted)}
    return np.array([caption in kinds for caption in captions], dtype=bool)


def _of_package(config: DataConfig, split: str) -> ImageData:
    found = load_outside(config.name, split, config.path)
    names = tuple(found.class_names)
    captions = None if found.captions is None else tuple(found.captions)
    owners = None if found.owners is None else np.asarray(found.owners).tolist()
    clients = None if owners is None else NaturalClients(*_numbered(map(str, owners)))
    images, labels, texts = found.images, found.labels, json.dumps([names, captions, owners])
    sha256 = combined(sha256_of(images), sha256_of(labels), texts)
    return ImageData(config.name, images, labels, names, sha256, split, captions, clients)


def _own_images(config: DataConfig) -> ImageData:
    """Return the user's own images with their clients; the hash is of all that is known of them."""
    base = image_base(str(config.path))
    if config.metadata is None:
        rows = client_rows(base)
    else:
        rows = listed_rows(base, config.metadata, config.clients, config.captions)
    images, kept = decoded([base / row.path for row in rows], config)
    rows = [rows[i] for i in kept]
    names, owner = _numbered(row.client for row in rows)
    class_names, labels = _numbered(row.class_name or NO_CLASS for row in rows)
    is_test = np.array([row.split == "test" for row in rows]) if rows[0].split else None
    captions = tuple(row.caption for row in rows) if rows[0].caption else None
    arrays = [images, labels, owner, *([] if is_test is None else [is_test])]
    sha256 = combined(*map(sha256_of, arrays), json.dumps([names, class_names, captions]))
    clients = NaturalClients(names, owner, is_test)
    return ImageData("folder", images, labels, class_names, sha256, "all", captions, clients)


def _numbered(texts: Iterable[str]) -> tuple[tuple[str, ...], np.ndarray]:
    """Return the distinct texts in order, and the position of each text among them."""
    names, numbers = np.unique(list(texts), return_inverse=True)
    return tuple(names.tolist()), numbers.astype(np.int64)


def _of_split(data: ImageData, split: str) -> ImageData:
    """Return the images of one split without their clients.

    The test split has the images that the data name so, or of the clients that may only arrive.
    """
    assert data.clients is not None
    is_test, owner, arrives = data.clients.is_test, data.clients.owner, data.clients.arrives
    if is_test is None:
        is_test = np.zeros(len(owner), bool) if arrives is None else arrives[owner]
    chosen = np.flatnonzero(is_test == (split == "test"))
    _require_some(chosen, split, data.name)
    return replace(
        data,
        images=data.images[chosen],
        labels=data.labels[chosen],
        sha256=combined(data.sha256, split),
        split=split,
        captions=data.captions and tuple(data.captions[i] for i in chosen),
        clients=None,
    )


def _require_some(chosen: np.ndarray, split: str, where: object) -> None:
    if len(chosen) == 0:
        raise DataError(f"expected images in the {split} split of {where}, got none: add some")


def _all_fonts(root: Path, image_size: int | None) -> ImageData:
    """Return all fonts, each as one client, drawn at `image_size` or else at the largest size."""
    names, *drawn = _stored("fonts", root, ("names", *(f"glyphs_{size}" for size in SIZES)))
    glyphs = drawn[SIZES.index(image_size if image_size in SIZES else max(SIZES))]
    fonts = tuple(names.tolist())
    owner = np.repeat(np.arange(len(fonts)), len(CHARACTERS))
    return ImageData(
        "fonts",
        glyphs.reshape(-1, 1, *glyphs.shape[2:]),
        np.tile(np.arange(len(CHARACTERS)), len(fonts)),
        SPECS["fonts"].class_names,
        sha256_of(names, glyphs),
        "all",
        tuple(map(caption_of, CHARACTERS)) * len(fonts),
        NaturalClients(fonts, owner, arrives=arriving(fonts)),
    )


def _stored(name: str, root: Path, keys: Sequence[str]) -> list[np.ndarray]:
    """Return arrays of a stored data set; DataError if they are not what was published.

    The file has a checksum of each array, which NumPy compares.
    """
    path, again = stored_file(name, root), f"run `spire data fetch {name}`"
    try:
        with path.open("rb") as content, np.load(content) as file:
            arrays = [file[key] for key in keys]
        for key, array in zip(keys, arrays, strict=True):
            check_array(name, key, array)
    except FileNotFoundError as error:
        raise DataError(f"expected the data set {name} in {path}, got nothing: {again}") from error
    except (DataError, OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise DataError(f"the stored file {path} is damaged: {error}: {again}") from error
    return arrays
