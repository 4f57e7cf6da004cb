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
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from PIL import Image, ImageOps

from pipeline.config.data import DataConfig
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
    base = Path(path).expanduser().resolve()
    if not base.is_dir():
        raise DataError(f"expected a folder of images in data.path, got none at {base}")
    return base


def class_rows(base: Path) -> list[Row]:
    """Return the images of a folder with one subfolder per class, each in a split.

    Subfolders `train` and `test` are the two splits. Without them a fifth of each class is the
    test split, and at least one image where a class has two. Hashes of the paths decide which, so
    that the split is the same everywhere.
    """

    def hashed(path: str) -> bytes:
        return hashlib.sha256(os.fsencode(path)).digest()

    rows = []
    for split, class_name, paths in _paths_by_top(base, "class"):
        num_test = 0 if split else min(len(paths) - 1, math.ceil(len(paths) / 5))
        test = set(sorted(paths, key=hashed)[:num_test])
        for path in paths:
            rows.append(Row(path, class_name, split=split or ("test" if path in test else "train")))
    return rows


def client_rows(base: Path) -> list[Row]:
    """Return the images of a folder with one subfolder per client, and in it perhaps one per class.

    Subfolders `train` and `test` hold the clients of the two splits.
    """
    rows = []
    for split, client, paths in _paths_by_top(base, "client"):
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

    columns = ["path", "class", client, caption, "" if is_arriving else "split"]
    cells = table.reindex(columns=columns).astype("string").fillna("")
    rows = [Row(*map(str.strip, row)) for row in cells.itertuples(index=False)]
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

    try:
        match file.suffix.lower():
            case ".csv":  # a text such as NA stays one; commas at the ends of lines are dropped
                plain: Any = {"dtype": str, "keep_default_na": False, "index_col": False}
                table = pd.read_csv(file, encoding="utf-8-sig", **plain)
            case ".jsonl":
                table = pd.read_json(file, lines=True, encoding="utf-8-sig", dtype=False)
            case _:
                table = pd.read_parquet(file)
        if table.empty:
            raise ValueError("no rows")
    except (OSError, ValueError, TypeError) as error:
        raise DataError(
            f"expected a .csv, .jsonl or .parquet file at {file}, got {first_line(error)}: see to "
            "data.metadata"
        ) from error
    return table


def has_splits(base: Path) -> bool:
    """Return whether a folder has the subfolders `train` and `test`."""
    return all((base / split).is_dir() for split in SPLITS)


def images_below(folder: Path) -> list[Path]:
    """Return the images below a folder in order; logs a warning of other files.

    OSError for a folder that cannot be listed.
    """
    images, others = list[Path](), Counter[str]()
    for root, folders, names in os.walk(folder, onerror=_refuse, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for file in (Path(root, name) for name in names if not name.startswith(".")):
            if file.suffix.lower() in SUFFIXES:
                images.append(file)
            else:
                others[file.suffix] += 1
    if others:
        counts = ", ".join(f"{others[suffix]} {suffix}" for suffix in sorted(others))
        _log.warning("files in %s that are not read as images: %s", folder, counts)
    return sorted(images)


def _refuse(error: OSError) -> None:
    raise error


def _paths_by_top(base: Path, kind: str) -> Iterator[tuple[str, str, list[str]]]:
    """Yield split, name and images, as paths below the base, of each subfolder of each split.

    The split is "" where the base has none. `kind`: what a subfolder is, for messages. DataError
    unless each subfolder has images.
    """
    for split in SPLITS if has_splits(base) else ("",):
        folder = base / split
        tops = sorted(path.name for path in folder.glob("[!.]*") if path.is_dir())
        if {top.lower() for top in tops} <= {*SPLITS, *OTHER_SPLITS}:
            raise DataError(
                f"expected a subfolder of images per {kind} in {folder}, or train and test with "
                f"these, got {', '.join(tops) or 'none'}: make them, or name another data.path"
            )
        found: dict[str, list[str]] = {top: [] for top in tops}
        images = images_below(folder)
        for image in images:
            if image.parent != folder:
                top = image.relative_to(folder).parts[0]
                found[top].append(image.relative_to(base).as_posix())
        if num_loose := sum(image.parent == folder for image in images):
            _log.warning("%d images beside the folders in %s are left out", num_loose, folder)
        for top, paths in found.items():
            if not paths:
                raise DataError(f"expected images in {folder / top}, got none: add some")
            yield split, top, paths


def decoded(files: Sequence[Path], config: DataConfig) -> tuple[np.ndarray, list[int]]:
    """Return the central squares of images as uint8 (N, C, S, S) of the size that is set.

    They are RGB or grey, as `data.channels` says: "auto" is grey if no image has a colour. Grey is
    Pillow's luma, so that grey images keep their values. Beside them, the positions of their files.
    """
    side, way = config.image_size or 0, Image.Resampling.BILINEAR
    found = {
        i: np.asarray(ImageOps.fit(image, (side, side), way))
        for i, image in opened(files, config.on_bad)
    }
    images = np.stack([*found.values()])
    if config.channels == 1 or (config.channels == "auto" and (images == images[..., :1]).all()):
        grey = (Image.fromarray(rgb).convert("L") for rgb in images)
        images = np.stack([np.asarray(image)[..., None] for image in grey])
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2)), [*found]


def opened(files: Sequence[Path], on_bad: str) -> Iterator[tuple[int, Image.Image]]:
    """Yield the position and the image, as `opened_rgb` does, of each file that can be read.

    At the end the others raise one DataError; with `on_bad` of "skip" a warning counts them.
    """
    faults = list[DataError]()
    for i, file in enumerate(files):
        try:
            image = opened_rgb(file)
        except DataError as error:
            faults.append(error)
        else:
            yield i, image
    if faults:
        told = f"{len(faults)} of {len(files)} images cannot be read, the first: {faults[0]}"
        if on_bad != "skip" or len(faults) == len(files):
            advice = "; data.on_bad=skip leaves such files out"
            raise DataError(told + advice) from faults[0]
        _log.warning("left out: %s", told)


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
