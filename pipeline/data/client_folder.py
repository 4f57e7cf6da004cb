"""Reads the user's own images with their owners: from folders, or from a metadata file.

Without metadata each top folder is a client, and the folders in it are classes, if there are any:
`<client>/<class>/<image>` or `<client>/<image>`. Top folders `train` and `test` hold the clients of
the two splits. With metadata, a row has the columns path, client, and optionally caption, split and
class. N images of A clients.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.data.image_folder import (
    decoded,
    images_by_subfolder,
    require_text,
    warn_beside_splits,
)
from pipeline.data.metadata import Row, read_rows
from pipeline.files.paths import expanded
from spire_core.errors import DataError
from spire_core.partition.natural import NaturalClients

NO_CLASS = "image"  # the class of images without one
MAX_CLASSES = 10_000
SPLITS = ("train", "test")


@dataclass(frozen=True, eq=False)
class FolderImages:
    """Images (N, 3, S, S) uint8 with their classes (N,), captions and clients."""

    images: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]
    captions: tuple[str, ...] | None
    clients: NaturalClients


def load_client_folders(path: str | Path, image_size: int) -> FolderImages:
    """Return the images of a folder with one subfolder per client.

    Raises DataError for a missing folder, a client without images, or a file that is no image.
    """
    base = _folder(path)
    has_splits = all((base / split).is_dir() for split in SPLITS)
    splits = SPLITS if has_splits else ("",)
    if has_splits:
        warn_beside_splits(base)
    return _images(base, [row for split in splits for row in _rows_below(base, split)], image_size)


def load_listed(
    path: str | Path, metadata: str, columns: tuple[str, str], image_size: int
) -> FolderImages:
    """Return the images that a metadata file in the folder lists.

    `columns`: the names of the columns with the client and the caption. Raises DataError for a file
    that cannot be read, and for rows that are incomplete, contradictory or without an image.
    """
    base = _folder(path)
    return _images(base, read_rows(base, metadata, columns), image_size)


def _folder(path: str | Path) -> Path:
    base = expanded(path, "data.path").resolve()
    require_text("data.path", base)
    if not base.is_dir():
        raise DataError(f"expected a folder of images in data.path, got {base}: name another")
    return base


def _rows_below(base: Path, split: str) -> list[Row]:
    """Return a row for each image below the client folders of a split, or of the base."""
    rows = []
    for client, files in images_by_subfolder(base / split, "client").items():
        for file in files:
            within = file.relative_to(base / split / client).parts
            require_text("the name of a class folder", file.parent)
            class_name = within[0] if len(within) > 1 else NO_CLASS
            name = file.relative_to(base).as_posix()
            rows.append(Row(name, client, None, split or None, class_name))
    return rows


def _images(base: Path, rows: Sequence[Row], image_size: int) -> FolderImages:
    names, owner = _numbered(rows, lambda row: row.client)
    class_names, labels = _numbered(rows, lambda row: row.class_name or NO_CLASS)
    if len(class_names) > MAX_CLASSES:
        raise DataError(
            f"expected at most {MAX_CLASSES} classes, got {len(class_names)}: leave the column "
            "class out"
        )
    splits = [row.split for row in rows]
    is_test = None if None in splits else np.array([split == "test" for split in splits])
    if is_test is None and any(splits):
        raise DataError("expected a split for every image or for none, got it for some: add it")
    captions = tuple(row.caption for row in rows if row.caption is not None)
    images = np.stack([decoded(base / row.path, image_size) for row in rows])
    clients = NaturalClients(names, owner, is_test)
    return FolderImages(images, labels, class_names, captions or None, clients)


def _numbered(rows: Sequence[Row], key: Callable[[Row], str]) -> tuple[tuple[str, ...], np.ndarray]:
    """Return the distinct values of a column in order, and each row's position among them."""
    names = tuple(name for name, _ in itertools.groupby(sorted(map(key, rows))))
    numbers = {name: at for at, name in enumerate(names)}
    return names, np.array([numbers[key(row)] for row in rows], dtype=np.int64)
