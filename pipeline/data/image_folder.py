"""The user's own images: class folders, client folders, or a metadata file that lists images.

Each way of finding images gives rows, one per image. Files and folders whose names begin with a
dot are left out, and links are followed.
"""

import hashlib
import logging
import math
import os
import re
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from PIL import Image, ImageOps

from pipeline.files.paths import expanded
from spire_core.errors import DataError, first_line

if TYPE_CHECKING:
    import pandas as pd

FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")  # others start programs, as EPS does
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
SPLITS = ("train", "test")
OTHER_SPLITS = ("training", "val", "valid", "validation", "testing")
NO_CLASS = "image"  # the class of clients' images without one
TRANSPARENT = ("RGBA", "LA", "PA")  # modes of Pillow with an opacity per pixel
_log = logging.getLogger(__name__)


class Row(NamedTuple):
    """One image: its path below the folder, and what else is known; "" is unknown."""

    path: str
    class_name: str = ""
    client: str = ""
    caption: str = ""
    split: str = ""


def image_base(path: str | Path) -> Path:
    """Return the folder of `data.path`; DataError if there is none."""
    base = expanded(path, "data.path").resolve()
    if not base.is_dir():
        raise DataError(
            f"expected a folder of images in data.path, got {base}: there is no such folder"
        )
    return base


def class_rows(base: Path) -> list[Row]:
    """Return the images of a folder with one subfolder per class, each in a split.

    Subfolders `train` and `test` are the two splits. Without them a fifth of each class is the
    test split, and at least one image where a class has two. Hashes of the paths decide which, so
    that the split is the same everywhere.
    """

    def hashed_path(row: Row) -> bytes:
        return hashlib.sha256(os.fsencode(row.path)).digest()

    rows = []
    if has_splits(base):
        for split in SPLITS:
            for class_name, paths in _paths_by_top(base, split, "class").items():
                rows += [Row(path, class_name, split=split) for path in paths]
        return rows
    for class_name, paths in _paths_by_top(base, "", "class").items():
        own = [Row(path, class_name) for path in paths]
        num_test = min(len(own) - 1, math.ceil(len(own) / 5))
        test = set(sorted(own, key=hashed_path)[:num_test])
        rows += [row._replace(split="test" if row in test else "train") for row in own]
    return rows


def client_rows(base: Path) -> list[Row]:
    """Return the images of a folder with one subfolder per client, and in it perhaps one per class.

    Subfolders `train` and `test` hold the clients of the two splits.
    """
    rows = []
    for split in SPLITS if has_splits(base) else ("",):
        for client, paths in _paths_by_top(base, split, "client").items():
            for path in paths:
                above = Path(path).relative_to(Path(split, client)).parts[:-1]
                rows.append(Row(path, above[0] if above else NO_CLASS, client, split=split))
    return rows


def listed_rows(
    base: Path, metadata: str, client: str, caption: str, is_arriving: bool = False
) -> list[Row]:
    """Return the rows of a metadata file in a folder, in its order.

    `client` and `caption`: the names of their columns. A file of a client that arrives needs no
    clients, and its splits are not read. Raises DataError for a file that cannot be read, a missing
    column, and rows that are incomplete or repeat an image.
    """
    file = base / metadata
    table = _table(file)
    needed = {"path"} if is_arriving else {"path", client}
    for column in needed | ({caption} - {"caption"}):  # a caption's column that the user named
        if column not in table:
            raise DataError(
                f"expected a column {column!r} in {file}, got {', '.join(map(str, table))}: "
                "add it, or name the columns in data.clients and data.captions"
            )

    def texts(column: str) -> list[str]:
        if column not in table:
            return [""] * len(table)
        return table[column].astype("string").fillna("").str.strip().tolist()

    columns = ("path", "class", client, caption, "" if is_arriving else "split")
    rows = [Row(*cells) for cells in zip(*map(texts, columns), strict=True)]
    for at, column in enumerate(columns):
        missing = [i for i, row in enumerate(rows, 1) if not row[at]]
        if missing and (column in needed or len(missing) < len(rows)):
            raise DataError(
                f"expected a {column} in every row of {file}, got none in row {missing[0]}: add it"
            )
    path, num_rows = Counter(row.path for row in rows).most_common(1)[0]
    if num_rows > 1:
        raise DataError(f"expected one row of {path} in {file}, got {num_rows}: remove the others")
    if others := {row.split for row in rows} - {"", *SPLITS}:
        raise DataError(f"expected a split train or test in {file}, got {min(others)}: correct it")
    return rows


def _table(file: Path) -> "pd.DataFrame":
    """Return the rows of a CSV, JSON lines or Parquet file; DataError if there are none."""
    import pandas as pd  # takes a second

    suffix = file.suffix.lower()
    if suffix not in (".csv", ".jsonl", ".parquet"):
        raise DataError(f"expected .csv, .jsonl or .parquet, got {file.name}: convert it")
    try:
        if suffix == ".csv":  # a text such as NA stays one; commas at the ends of lines are dropped
            plain: Any = {"dtype": str, "keep_default_na": False, "index_col": False}
            table = pd.read_csv(file, encoding="utf-8-sig", **plain)
        elif suffix == ".jsonl":
            plain = {"dtype": False}
            table = pd.read_json(file, lines=True, encoding="utf-8-sig", **plain)
        else:
            table = pd.read_parquet(file)
    except FileNotFoundError as error:
        raise DataError(f"expected data.metadata in data.path, got no {file}: name it") from error
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"expected rows in {file}, got {first_line(error)}: mend it") from error
    if table.empty:
        raise DataError(f"expected rows in {file}, got none: list the images")
    return table


def has_splits(base: Path) -> bool:
    """Return whether a folder has the subfolders `train` and `test`."""
    return all((base / split).is_dir() for split in SPLITS)


def images_below(folder: Path) -> list[Path]:
    """Return the images below a folder in order; logs a warning of other files.

    DataError for a folder that cannot be listed, and for a link to a folder around it.
    """
    images, others = list[Path](), Counter[str]()
    for root, folders, names in os.walk(folder, onerror=_refuse, followlinks=True):
        here = Path(root)
        if here.resolve() in [parent.resolve() for parent in here.parents]:
            raise DataError(f"expected folders, got {here}, a link to one around it: remove it")
        folders[:] = [name for name in folders if not name.startswith(".")]
        for file in (here / name for name in names if not name.startswith(".")):
            if file.suffix.lower() in SUFFIXES:
                images.append(file)
            else:
                others[file.suffix] += 1
    if others:
        counts = ", ".join(f"{others[suffix]} {suffix}" for suffix in sorted(others))
        _log.warning("files in %s that are not read as images: %s", folder, counts)
    return sorted(images)


def _refuse(error: OSError) -> None:
    raise DataError(
        f"expected a folder that can be read, got {error.filename} ({error.strerror}): see to it"
    ) from error


def _paths_by_top(base: Path, split: str, kind: str) -> dict[str, list[str]]:
    """Return the images below each subfolder of a split's folder, all as paths below the base.

    `kind`: what a subfolder is, for messages. DataError unless each subfolder has images.
    """
    folder = base / split
    tops = sorted(path for path in folder.glob("[!.]*") if path.is_dir())
    if not tops:
        raise DataError(
            f"expected a subfolder of images per {kind} in {folder}, got none: put images of each "
            f"{kind} into a subfolder"
        )
    if {top.name.lower() for top in tops} <= {*SPLITS, *OTHER_SPLITS}:
        raise DataError(
            f"expected a subfolder per {kind} in {folder}, or train and test with these, got "
            f"{', '.join(top.name for top in tops)}: name them train and test, or one of them in "
            "data.path"
        )
    found: dict[str, list[str]] = {top.name: [] for top in tops}
    images = images_below(folder)
    for image in images:
        if image.parent != folder:
            top = image.relative_to(folder).parts[0]
            found[top].append(image.relative_to(base).as_posix())
    for top, paths in found.items():
        if not paths:
            raise DataError(f"expected images in {folder / top}, got none: add some, or remove it")
    if num_loose := sum(image.parent == folder for image in images):
        _log.warning("%d images beside the %s folders of %s are left out", num_loose, kind, folder)
    return found


def decoded(file: Path, size: int) -> np.ndarray:
    """Return the central square of an image as (3, size, size) uint8 in RGB."""
    square = ImageOps.fit(opened_rgb(file), (size, size), Image.Resampling.BILINEAR)
    return np.ascontiguousarray(np.asarray(square).transpose(2, 0, 1))


def opened_rgb(file: Path) -> Image.Image:
    """Return an image as `upright_rgb` does; DataError if it has more than 8 bits per channel, or
    cannot be decoded.
    """
    try:
        with Image.open(file, formats=FORMATS) as image:
            # Of 16 bits per channel, Pillow drops 8 where the raw mode ends in ;16B, L or N.
            is_deep = image.mode[0] in "IF" or re.search(";16[BLN]", str(image.tile))
            if not is_deep:
                return upright_rgb(image)
    except Exception as error:  # a wrong file can raise anything
        raise DataError(f"expected an image, got {file} ({error}): remove or mend it") from error
    raise DataError(f"expected 8 bits per channel, got more in {file}: convert it")


def upright_rgb(image: Image.Image) -> Image.Image:
    """Return an image in RGB, turned as its EXIF data say, on white where it is transparent.

    The colours under transparent pixels are arbitrary: many writers leave them black.
    """
    upright = ImageOps.exif_transpose(image)
    if upright.mode in TRANSPARENT or "transparency" in upright.info:
        white = Image.new("RGBA", upright.size, "white")
        upright = Image.alpha_composite(white, upright.convert("RGBA"))
    return upright.convert("RGB")


def in_channels(images: np.ndarray, channels: int | str) -> np.ndarray:
    """Return RGB images (N, 3, S, S) uint8 as (N, C, S, S) with C of `data.channels`.

    "auto" takes one channel if no image has a colour. One channel is Pillow's luma, so that grey
    images keep their values.
    """
    if channels == "auto":
        is_grey = all((images[:, 0] == images[:, i]).all() for i in (1, 2))
        channels = 1 if is_grey else 3
    if channels == 3:
        return images
    grey = (Image.fromarray(rgb.transpose(1, 2, 0)).convert("L") for rgb in images)
    return np.stack([np.asarray(image)[None] for image in grey])
