"""Reads the user's own images: a folder with one subfolder per class."""

import contextlib
import hashlib
import itertools
import logging
import math
import os
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from PIL.TiffImagePlugin import BITSPERSAMPLE, TiffImageFile

from pipeline.files.paths import expanded
from spire_core.errors import DataError, SplitError

FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")  # others start programs, as EPS does
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
UNREAD = (".gif", ".heic", ".heif", ".avif", ".jfif", ".jpe", ".jp2", ".jxl", ".apng", ".tga")
UNREAD += (".psd", ".ico", ".svg", ".dng", ".pbm", ".pnm")  # of other files that hold images
SPLITS = ("train", "training", "val", "valid", "validation", "test", "testing")
MAX_PIXELS = 64_000_000
TRANSPARENT = ("RGBA", "LA", "PA")  # modes of Pillow with an opacity per pixel
DEEP_MODE = re.compile(r";16[BLN]")  # a raw mode of Pillow that drops 8 of 16 bits
_log = logging.getLogger(__name__)


def load_folder(
    path: str | Path, split: str, image_size: int
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Return images, labels and class names of a folder with one subfolder per class.

    Images are (N, 3, image_size, image_size) uint8 in RGB, labels (N,) int64. Subfolders `train`
    and `test` are the two splits. Without them a fifth of each class is the test split, and at
    least one image where a class has two. Hashes of the names decide which, so that the split is
    the same everywhere. Raises DataError for a missing folder, no classes, an empty split, or a
    file that is no image.
    """
    base = expanded(path, "data.path").resolve()
    require_text("data.path", base)
    if (base / "train").is_dir() and (base / "test").is_dir():
        _check_same_classes(base)
        warn_beside_splits(base)
        classes, samples = _image_files(base / split)
    else:
        _check_no_splits(base)
        classes, samples = _image_files(base)
        samples = _own_split(base, samples, split)
    if not samples:
        raise SplitError(f"expected images in the {split} split in {base}, got none: add some")
    images = np.stack([decoded(file, image_size) for file, _ in samples])
    labels = np.array([label for _, label in samples], dtype=np.int64)
    return images, labels, tuple(classes)


def _check_same_classes(base: Path) -> None:
    """Raise DataError if a class has a folder in `train` or in `test` alone."""
    found = (_subfolders(base / split) for split in ("train", "test"))
    train, test = ({top.name for top in tops} for tops in found)
    if alone := sorted(train ^ test):
        has, lacks = ("train", "test") if alone[0] in train else ("test", "train")
        raise DataError(
            f"expected the same class folders in train and test of {base}, got {alone[0]!r} in "
            f"{has} alone: add images of it to {lacks}, or remove it"
        )


def _check_no_splits(base: Path) -> None:
    """Raise DataError for folders of other splits than these two: each would be a class."""
    tops = _subfolders(base)
    if tops and all(top.name.lower() in SPLITS for top in tops) and any(map(_subfolders, tops)):
        names = ", ".join(top.name for top in tops)
        raise DataError(
            f"expected class folders, or train and test with class folders, in {base}, got "
            f"{names}: name them train and test, or one of them in data.path"
        )


def _subfolders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("[!.]*") if path.is_dir())


def _image_files(folder: Path) -> tuple[list[str], list[tuple[Path, int]]]:
    """Return the class names, and the files with their class numbers."""
    found = images_by_subfolder(folder, "class")
    return list(found), [(file, label) for label, own in enumerate(found.values()) for file in own]


def images_by_subfolder(folder: Path, kind: str) -> dict[str, list[Path]]:
    """Return the images below each subfolder of a folder by its name, all in order.

    `kind`: what a subfolder is, for messages. Raises the errors of `files_below`, and DataError
    unless there are subfolders, each with images and with a name in UTF-8. Logs a warning of images
    that are left out.
    """
    files = files_below(folder) if folder.is_dir() else []
    tops = _subfolders(folder)
    if not tops:
        raise DataError(
            f"expected a folder with one subfolder of images per {kind}, got {folder}: "
            f"{_folder_advice(folder, files, kind)}"
        )
    found: dict[str, list[Path]] = {top.name: [] for top in tops}
    for file in files:
        if file.suffix.lower() in SUFFIXES and file.parent != folder:
            found[file.relative_to(folder).parts[0]].append(file)
    for top in tops:
        require_text(f"the name of a {kind} folder", top)
        if not found[top.name]:
            raise DataError(f"expected images in {top}, got none: add some, or remove it")
    _warn_of_left_out(folder, files, f"the {kind} folders")
    return found


def warn_beside_splits(base: Path) -> None:
    """Log a warning of the images in a folder itself, whose `train` and `test` have the others."""
    files = [file for file in base.glob("[!.]*") if file.is_file()]
    _warn_of_left_out(base, files, "train and test")


def _warn_of_left_out(folder: Path, files: Sequence[Path], places: str) -> None:
    """Log one warning of the images among a folder's files that are not read.

    They are of other formats, or lie in the folder itself, beside `places`.
    """
    suffixes = Counter(file.suffix.lower() for file in files)
    unread = ", ".join(f"{suffixes[suffix]} {suffix}" for suffix in UNREAD if suffixes[suffix])
    loose = sum(file.parent == folder and file.suffix.lower() in SUFFIXES for file in files)
    left_out = [f"{unread} (save them as .png)"] if unread else []
    left_out += [f"{loose} beside {places} (move them there)"] if loose else []
    if left_out:
        _log.warning("images in %s are left out: %s", folder, ", ".join(left_out))


def _folder_advice(folder: Path, files: Sequence[Path], kind: str) -> str:
    """Return what to do about a folder without subfolders, of which these are the files."""
    if not folder.exists():
        return "there is no such folder, so name another in data.path"
    if not folder.is_dir():
        return "it is a file, so name a folder in data.path"
    if any(file.suffix.lower() in SUFFIXES for file in files):
        return "put the images that lie in it into a subfolder"
    return f"put images of each {kind} into a subfolder of it"


def files_below(folder: Path, above: tuple[Path, ...] = ()) -> list[Path]:
    """Return all files below a folder in order, those behind links too, hidden ones not.

    `above`: the folders on the way. Raises DataError for a folder that cannot be listed, and if a
    link leads to a folder around it, directly or by way of other links, where no walk would end.
    """
    here, found = folder.resolve(), []
    if any(parent.is_relative_to(here) for parent in above):
        raise DataError(
            f"expected folders of images, got {folder}, a link to a folder around it: remove it"
        )
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        raise DataError(
            f"expected a folder that can be read, got {folder} ({error.strerror}): see to it"
        ) from error
    for path in (folder / name for name in names if not name.startswith(".")):
        found += files_below(path, (*above, here)) if path.is_dir() else [path]
    return found


def require_text(what: str, path: Path) -> None:
    """Raise DataError for a path that is not UTF-8, which no record and no figure can hold."""
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"expected {what} in UTF-8, got {os.fsencode(path)!r}: rename it"
        ) from error


def _own_split(base: Path, samples: list[tuple[Path, int]], split: str) -> list[tuple[Path, int]]:
    """Return the files of a split of a folder without `train` and `test`."""

    def hashed_name(sample: tuple[Path, int]) -> bytes:
        return hashlib.sha256(os.fsencode(sample[0].relative_to(base).as_posix())).digest()

    chosen = []
    for _, of_class in itertools.groupby(samples, key=lambda sample: sample[1]):
        own = sorted(of_class, key=hashed_name)
        num_test = min(len(own) - 1, math.ceil(len(own) / 5))
        chosen += sorted(own[:num_test] if split == "test" else own[num_test:])
    return chosen


def decoded(file: Path, size: int) -> np.ndarray:
    """Return the central square of an image as (3, size, size) uint8 in RGB."""
    with opened_image(file) as image:
        square = ImageOps.fit(upright_rgb(image), (size, size), Image.Resampling.BILINEAR)
    return np.ascontiguousarray(np.asarray(square).transpose(2, 0, 1))


def upright_rgb(image: Image.Image) -> Image.Image:
    """Return an image in RGB, turned as its EXIF data say, on white where it is transparent.

    The colours under transparent pixels are arbitrary: many writers leave them black.
    """
    upright = ImageOps.exif_transpose(image)
    if upright.mode in TRANSPARENT or "transparency" in upright.info:
        white = Image.new("RGBA", upright.size, "white")
        upright = Image.alpha_composite(white, upright.convert("RGBA"))
    return upright.convert("RGB")


@contextlib.contextmanager
def opened_image(file: Path) -> Iterator[Image.Image]:
    """Yield an image of 8 bits per channel; DataError if the file is none, or cannot be decoded."""
    if file.exists() and not file.is_file():  # to open a named pipe would block for ever
        raise DataError(f"expected an image, got {file}, which is no regular file: remove it")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an oddity is an error, or does not matter
            with Image.open(file, formats=FORMATS) as image:
                if _is_deep(image):
                    raise DataError(f"expected 8 bits per channel, got more in {file}: convert it")
                if image.width * image.height > MAX_PIXELS:
                    raise DataError(
                        f"expected an image of at most {MAX_PIXELS} pixels, got {image.width} x "
                        f"{image.height} in {file}: make it smaller"
                    )
                yield image
    except DataError:
        raise
    except Exception as error:  # a wrong file can raise anything
        raise DataError(f"expected an image, got {file} ({error}): remove or mend it") from error


def _is_deep(image: Image.Image) -> bool:
    """Return whether a file has more than 8 bits per channel, also if Pillow drops the others."""
    if image.mode[0] in "IF":
        return True
    if isinstance(image, TiffImageFile) and max(np.ravel(image.tag_v2.get(BITSPERSAMPLE, 8))) > 8:
        return True
    for tile in getattr(image, "tile", ()):
        if DEEP_MODE.search(str(tile.args)):
            return True
        if image.format == "PPM" and isinstance(tile.args, tuple) and tile.args[-1] > 255:
            return True
    return False
