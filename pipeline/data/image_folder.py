"""Reads the user's own images: a folder with one subfolder per class."""

import contextlib
import hashlib
import itertools
import logging
import math
import os
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from pipeline.files.paths import expanded
from spire_core.errors import DataError

FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")  # others start programs, as EPS does
MAX_PIXELS = 64_000_000
_log = logging.getLogger(__name__)


def load_folder(
    path: str | Path, split: str, image_size: int
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """The images (N, 3, image_size, image_size) uint8 in RGB, labels (N,) int64 and class names of
    the folder `path`, which has one subfolder per class.

    Subfolders `train` and `test` are the two splits. Without them a fifth of each class is the
    test split (at least one image where a class has two): those whose hashed names come first,
    so the split is the same everywhere. Raises DataError for a missing folder, no classes, an
    empty split, or a file that is no image.
    """
    base = expanded(path, "data.path").resolve()
    if (base / "train").is_dir() and (base / "test").is_dir():
        classes, samples = _image_files(base / split)
        if classes != _image_files(base / "train")[0]:
            raise DataError(f"expected the same class folders in {base}/train and {base}/test")
    else:
        classes, samples = _image_files(base)
        samples = _own_split(base, samples, split)
    if not samples:
        raise DataError(f"expected images for the {split} split in {base}, got none: add some")
    images = np.stack([_decode(file, image_size) for file, _ in samples])
    labels = np.array([label for _, label in samples], dtype=np.int64)
    return images, labels, tuple(classes)


def _image_files(folder: Path) -> tuple[list[str], list[tuple[Path, int]]]:
    """Class names, and the files with their class numbers."""
    from torchvision.datasets import ImageFolder  # takes seconds to import

    _refuse_loops(folder)
    try:
        found = ImageFolder(str(folder))
    except OSError as error:
        reason = " ".join(str(error).split())
        raise DataError(
            f"expected a folder with one subfolder of images per class, got {folder}: {reason}"
        ) from error
    num_gifs = sum(path.suffix.lower() == ".gif" for path in folder.rglob("*"))
    if num_gifs:
        _log.warning("%d .gif files in %s are left out: save them as .png", num_gifs, folder)
    return found.classes, [(Path(file), label) for file, label in found.samples]


def _refuse_loops(folder: Path) -> None:
    """Raise DataError if a link inside leads to a folder above it: a walk would never end."""
    for at, names, _ in os.walk(folder):
        for path in (Path(at, name) for name in names):
            if path.is_symlink() and path.parent.resolve().is_relative_to(path.resolve()):
                raise DataError(
                    f"expected folders of images, got {path}, a link to a folder around it: "
                    "remove it"
                )


def _own_split(base: Path, samples: list[tuple[Path, int]], split: str) -> list[tuple[Path, int]]:
    """The files that belong to `split`, in a folder that has no splits of its own."""

    def hashed_name(sample: tuple[Path, int]) -> bytes:
        return hashlib.sha256(os.fsencode(sample[0].relative_to(base).as_posix())).digest()

    chosen = []
    for _, of_class in itertools.groupby(samples, key=lambda sample: sample[1]):
        own = sorted(of_class, key=hashed_name)
        num_test = min(len(own) - 1, math.ceil(len(own) / 5))
        chosen += sorted(own[:num_test] if split == "test" else own[num_test:])
    return chosen


def _decode(file: Path, size: int) -> np.ndarray:
    """The image as (3, size, size) uint8: its central square, as RGB."""
    with opened_image(file) as image:
        rgb = ImageOps.exif_transpose(image).convert("RGB")
        square = ImageOps.fit(rgb, (size, size), Image.Resampling.BILINEAR)
    return np.ascontiguousarray(np.asarray(square).transpose(2, 0, 1))


@contextlib.contextmanager
def opened_image(file: Path) -> Iterator[Image.Image]:
    """Yield an image of 8 bits per channel; DataError if the file is none, or cannot be decoded."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what is odd about a file is an error or no matter
            with Image.open(file, formats=FORMATS) as image:
                if image.mode[0] in "IF":
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
