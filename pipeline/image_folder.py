"""Reads the user's own images: a folder with one subfolder per class."""

import hashlib
import itertools
import math
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from spire_core.errors import DataError


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
    base = Path(path).expanduser().resolve()
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

    try:
        found = ImageFolder(str(folder))
    except OSError as error:
        reason = " ".join(str(error).split())
        raise DataError(
            f"expected a folder with one subfolder of images per class, got {folder}: {reason}"
        ) from error
    return found.classes, [(Path(file), label) for file, label in found.samples]


def _own_split(base: Path, samples: list[tuple[Path, int]], split: str) -> list[tuple[Path, int]]:
    """The files that belong to `split`, in a folder that has no splits of its own."""

    def hashed_name(sample: tuple[Path, int]) -> bytes:
        return hashlib.sha256(sample[0].relative_to(base).as_posix().encode()).digest()

    chosen = []
    for _, of_class in itertools.groupby(samples, key=lambda sample: sample[1]):
        own = sorted(of_class, key=hashed_name)
        num_test = min(len(own) - 1, math.ceil(len(own) / 5))
        chosen += sorted(own[:num_test] if split == "test" else own[num_test:])
    return chosen


def _decode(file: Path, size: int) -> np.ndarray:
    """The image as (3, size, size) uint8: its central square, as RGB."""
    try:
        with Image.open(file) as image:
            if image.mode[0] in "IF":
                raise DataError(f"expected an image of 8 bits per channel, got {file}")
            rgb = ImageOps.exif_transpose(image).convert("RGB")
            square = ImageOps.fit(rgb, (size, size), Image.Resampling.BILINEAR)
    except (OSError, Image.DecompressionBombError) as error:
        raise DataError(f"expected an image, got {file} ({error}): remove or mend it") from error
    return np.asarray(square).transpose(2, 0, 1)
