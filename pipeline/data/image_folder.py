"""Reads the user's own images: a folder with one subfolder per class."""

import contextlib
import hashlib
import itertools
import logging
import math
import os
import re
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from pipeline.files.paths import expanded
from spire_core.errors import DataError

FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")  # others start programs, as EPS does
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
        classes, samples = _image_files(base / split)
        if classes != _image_files(base / "train")[0]:
            raise DataError(f"expected the same class folders in {base}/train and {base}/test")
    else:
        classes, samples = _image_files(base)
        samples = _own_split(base, samples, split)
    if not samples:
        raise DataError(f"expected images for the {split} split in {base}, got none: add some")
    images = np.stack([decoded(file, image_size) for file, _ in samples])
    labels = np.array([label for _, label in samples], dtype=np.int64)
    return images, labels, tuple(classes)


def _image_files(folder: Path) -> tuple[list[str], list[tuple[Path, int]]]:
    """Return the class names, and the files with their class numbers."""
    from torchvision.datasets import ImageFolder  # takes seconds to import

    refuse_loops(folder)
    try:
        listing = ImageFolder(str(folder))
    except OSError as error:
        raise DataError(
            f"expected a folder with one subfolder of images per class, got {folder}: "
            f"{_folder_advice(folder, error)}"
        ) from error
    warn_of_gifs(folder)
    for name in listing.classes:
        require_text("the name of a class folder", folder / name)
    return listing.classes, [(Path(file), label) for file, label in listing.samples]


def files_below(folder: Path) -> list[Path]:
    """Return all files below a folder in order, also those behind links to folders.

    `refuse_loops` is to be called before.
    """
    walk = os.walk(folder, followlinks=True)
    return sorted(Path(place, name) for place, _, names in walk for name in names)


def warn_of_gifs(folder: Path) -> None:
    """Log a warning if there are GIFs below a folder, which no client is given.

    `refuse_loops` is to be called before.
    """
    names = (name for _, _, found in os.walk(folder, followlinks=True) for name in found)
    num_gifs = sum(name.lower().endswith(".gif") for name in names)
    if num_gifs:
        _log.warning("%d .gif files in %s are left out: save them as .png", num_gifs, folder)


def _folder_advice(folder: Path, error: OSError) -> str:
    """Return what to do about a folder without classes."""
    from torchvision.datasets.folder import IMG_EXTENSIONS

    if not folder.exists():
        return "there is no such folder, so name another in data.path"
    if not folder.is_dir():
        return "it is a file, so name a folder in data.path"
    if any(path.suffix.lower() in IMG_EXTENSIONS for path in folder.glob("*.*")):
        return "put images that lie in it into a subfolder, and remove empty subfolders"
    if not any(path.is_dir() for path in folder.iterdir()):
        return "put images of each class into a subfolder of it"
    return " ".join(str(error).split())


def require_text(what: str, path: Path) -> None:
    """Raise DataError for a path that is not UTF-8, which no record and no figure can hold."""
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"expected {what} in UTF-8, got {os.fsencode(path)!r}: rename it"
        ) from error


def refuse_loops(folder: Path, above: tuple[Path, ...] = ()) -> None:
    """Raise DataError if a link leads to a folder around it, directly or by way of other links.

    A walk that follows links would count its images many times. `above`: the folders on the way.
    """
    here = folder.resolve()
    if any(parent.is_relative_to(here) for parent in above):
        raise DataError(
            f"expected folders of images, got {folder}, a link to a folder around it: remove it"
        )
    names: list[str] = []
    with contextlib.suppress(OSError):  # a folder that cannot be listed is reported by its reader
        names = sorted(os.listdir(folder))
    for name in names:
        if os.path.isdir(folder / name):
            refuse_loops(folder / name, (*above, here))


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
    for tile in getattr(image, "tile", ()):
        if DEEP_MODE.search(str(tile.args)):
            return True
        if image.format == "PPM" and isinstance(tile.args, tuple) and tile.args[-1] > 255:
            return True
    return False
