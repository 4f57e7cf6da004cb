"""The images of a client that arrives: from a folder or a data set's test split.

No run trains on a test split.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from pipeline.config.data import DataConfig, is_outside
from pipeline.data.catalog import SPECS
from pipeline.data.datasets import load
from pipeline.data.image_folder import opened_image
from pipeline.data.resize import resized
from pipeline.files.paths import expanded
from pipeline.inference.saved_run import SavedRun
from spire_core.errors import ConfigError, DataError

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}

# --- the images of a new client -----------------------------------------------------------------


def load_arrival(
    run: SavedRun, data: str, classes: Sequence[str] = (), root: str | None = None
) -> tuple[np.ndarray, np.ndarray | None]:
    """Return a new client's uint8 images (N, C, H, W) at the run's size, and their mixture (K,).

    `data` is the name of a data set, whose test split is taken, or a folder of images, flat or with
    one subfolder per class; `classes` limits it to classes by name or number. The mixture is None
    if the classes are not all of the run's. Raises ConfigError if `data` is neither or a class is
    unknown, DataError if the images do not fit the run.
    """
    folder = expanded(data, "--data")
    if data in SPECS or (not folder.is_dir() and is_outside(data)):
        images, names = _dataset_images(run, data, classes, root)
    elif folder.is_dir():
        images, names = _folder_images(run, folder, classes)
    else:
        raise ConfigError(
            f"expected a data set out of {', '.join(SPECS)} or a folder of images, got {data!r}: "
            "name one of them"
        )
    return images, _mixture(names, run.class_names)


def _dataset_images(
    run: SavedRun, name: str, classes: Sequence[str], root: str | None
) -> tuple[np.ndarray, list[str]]:
    stored = load(DataConfig(name, root, image_size=run.image_shape[-1]), "test")
    if stored.images.shape[1] != run.image_shape[0]:
        raise DataError(
            f"expected images of {run.image_shape[0]} channels, got {stored.images.shape[1]} in "
            f"{name}: choose a data set like the one that the run was trained on"
        )
    names = [stored.class_names[label] for label in stored.labels]
    chosen = _chosen(names, stored.class_names, classes)
    return resized(stored.images[chosen], run.image_shape[-1]), [names[i] for i in chosen]


def _folder_images(
    run: SavedRun, folder: Path, classes: Sequence[str]
) -> tuple[np.ndarray, list[str]]:
    found = (p for p in folder.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
    files = sorted(p for p in found if p.is_file())
    names = ["" if p.parent == folder else p.parent.name for p in files]
    chosen = _chosen(names, sorted({name for name in names if name}), classes)
    if not chosen:
        raise DataError(f"expected images in {folder}, got none: add some, such as .png or .jpg")
    images = np.stack([_decode(files[i], run) for i in chosen])
    return images, [names[i] for i in chosen]


def _chosen(names: Sequence[str], known: Sequence[str], classes: Sequence[str]) -> list[int]:
    """Return the positions of images of these classes (names or numbers), or all positions."""
    wanted = set()
    for given in classes:
        if given not in known and not (given.isdecimal() and int(given) < len(known)):
            listed = ", ".join(known) or "none, since there are no class folders"
            raise ConfigError(f"expected classes out of {listed}, got {given!r}: correct --classes")
        wanted.add(given if given in known else known[int(given)])
    return [i for i, name in enumerate(names) if not classes or name in wanted]


def _decode(file: Path, run: SavedRun) -> np.ndarray:
    """Return an image file's central square as (C, H, W) uint8, scaled as the run's own images."""
    channels, _, size = run.image_shape
    with opened_image(file) as image:
        plain = ImageOps.exif_transpose(image).convert("L" if channels == 1 else "RGB")
        side = size if run.config.data.name == "folder" else min(plain.size)
        square = ImageOps.fit(plain, (side, side), Image.Resampling.BILINEAR)
    pixels = np.asarray(square).reshape(side, side, channels).transpose(2, 0, 1)
    return resized(pixels[None], size)[0]


def _mixture(names: Sequence[str], class_names: Sequence[str]) -> np.ndarray | None:
    """Return the share of each class (K,), or None if the names are not all classes."""
    if not set(names) <= set(class_names):
        return None
    return np.array([names.count(name) for name in class_names]) / len(names)
