"""The images of a client that arrives, with captions: a folder's, or a data set's test split.

Pre-training uses no test split. N images of C channels, K classes of the run.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

import numpy as np
from PIL import Image, ImageOps

from pipeline.config.data import DataConfig, is_outside
from pipeline.data.arrays import METADATA
from pipeline.data.catalog import SPECS
from pipeline.data.datasets import fitting, load
from pipeline.data.image_folder import (
    SPLITS,
    Row,
    has_splits,
    images_below,
    listed_rows,
    opened_rgb,
)
from pipeline.data.resize import resized
from pipeline.files.paths import expanded
from pipeline.inference.saved_run import SavedRun
from spire_core.errors import ConfigError, DataError
from spire_core.network.words import are_captions, composed


@dataclass(frozen=True, eq=False)
class ArrivingImages:
    """A new client's uint8 images (N, C, H, W), and what is known of them.

    `mixture` (K,): the share of each of the run's classes. `captions` (N): for a run with text.
    `labels` (N,): positions in the run's classes, -1 for another class.
    DataError unless each image has a text as its caption, or none has a caption.
    """

    images: np.ndarray
    mixture: np.ndarray | None = None
    captions: Sequence[str] | None = None
    labels: np.ndarray | None = None

    def __post_init__(self) -> None:
        if self.captions is None:
            return
        if not are_captions(self.captions):
            raise DataError(
                f"expected captions as a list of texts, got {self.captions!r:.80}: give one text "
                "for each image"
            )
        if len(self.captions) != len(self.images):
            raise DataError(
                f"expected a caption for each of {len(self.images)} images, got "
                f"{len(self.captions)}: give as many"
            )


def load_arrival(
    run: SavedRun, data: str, classes: Sequence[str] = (), root: str | None = None
) -> ArrivingImages:
    """Return a new client's images at the run's size.

    `data` is the name of a data set, whose test split is taken, or a folder of images, flat or with
    one subfolder per class; `classes` limits it to classes by name or number. For a run with text
    the captions are the data set's, or those of the folder's `captions_file`. The mixture is None
    if the classes are not all of the run's. Raises ConfigError if `data` is neither or a class is
    unknown, DataError if the images do not fit the run.
    """
    if not data.strip():  # else it would be the current folder
        raise ConfigError(f"expected a data set or a folder of images, got {data!r}: name one")
    folder = expanded(data, "--data")
    if data in SPECS or (not folder.is_dir() and is_outside(data)):
        images, names, captions = _dataset_images(run, data, classes, root)
    elif folder.is_dir():
        images, names, captions = _folder_images(run, folder, classes)
    else:
        raise ConfigError(
            f"expected a data set out of {', '.join(SPECS)} or a folder of images, got {data!r}: "
            "name one of them"
        )
    labels = _labels(names, run.class_names)
    return ArrivingImages(images, _mixture(labels, len(run.class_names)), captions, labels)


def held_back(run: SavedRun, arriving: ArrivingImages) -> np.ndarray:
    """Return which images (N,) the run lets no new client train on, by classes and captions."""
    partition, labels = run.config.partition, arriving.labels
    if labels is None:
        labels = np.full(len(arriving.images), -1)
    found = np.zeros(len(labels), dtype=bool)
    for pattern in (*partition.hidden, *partition.hidden_from_new):
        found |= fitting(pattern, labels, run.class_names, arriving.captions)
    return found


def captions_file(run: SavedRun) -> str:
    """Return the file in a new client's folder that lists its images with their captions.

    It has the name and the columns of the run's own `data.metadata`.
    """
    return run.config.data.metadata or METADATA


def _dataset_images(
    run: SavedRun, name: str, classes: Sequence[str], root: str | None
) -> tuple[np.ndarray, list[str], tuple[str, ...] | None]:
    # Of another package: its data lie where they lay for the run.
    is_same = name == run.config.data.name and is_outside(name)
    path = run.config.data.path if is_same else None
    if run.config.partition.style == "tint":
        raise DataError(
            f"expected a folder of tinted images for a run with partition.style=tint, got {name}, "
            "whose images have no style: name a folder"
        )
    stored = load(DataConfig(name, root, path, run.image_shape[-1]), "test")
    if stored.images.shape[1] != run.image_shape[0]:
        raise DataError(
            f"expected images of {run.image_shape[0]} channels, got {stored.images.shape[1]} in "
            f"{name}: choose a data set like the one that the run was trained on"
        )
    names = [stored.class_names[label] for label in stored.labels]
    chosen = _chosen(names, stored.class_names, classes)
    images, captions = resized(stored.images[chosen], run.image_shape[-1]), stored.captions
    if captions is not None:
        captions = tuple(captions[i] for i in chosen) if run.has_text else None
    return images, [names[i] for i in chosen], captions


def _folder_images(
    run: SavedRun, folder: Path, classes: Sequence[str]
) -> tuple[np.ndarray, list[str], tuple[str, ...] | None]:
    rows = _listed_rows(run, folder) or _found_rows(folder)
    names = [row.class_name for row in rows]
    texts = [row.caption for row in rows if row.caption]
    chosen = _chosen(names, sorted({name for name in names if name}), classes)
    if not chosen:
        raise DataError(f"expected images in {folder}, got none: add some, such as .png or .jpg")
    images = np.stack([_decode(folder / rows[i].path, run) for i in chosen])
    return images, [names[i] for i in chosen], tuple(texts[i] for i in chosen) if texts else None


def _found_rows(folder: Path) -> list[Row]:
    """Return a row for each image below a folder; as in training, the top folder is its class."""
    paths = [file.relative_to(folder) for file in images_below(folder)]
    return [Row(path.as_posix(), _top_folder(path, has_splits(folder))) for path in paths]


def _top_folder(path: PurePath, is_split: bool) -> str:
    """Return the folder that names an image's class, below that of a split; "" for neither."""
    above = path.parts[is_split and path.parts[0] in SPLITS : -1]
    return above[0] if above else ""


def _listed_rows(run: SavedRun, folder: Path) -> list[Row]:
    """Return the rows of a folder's `captions_file`; none without it, or for a run without text.

    Where it names no class at all, the top folders do, as without it. DataError unless they are of
    one client, or do not say whose the images are.
    """
    file = folder / captions_file(run)
    if not run.has_text or not file.is_file():
        return []
    settings = run.config.data
    columns = (settings.clients, settings.captions)
    rows = listed_rows(folder, captions_file(run), *columns, is_arriving=True)
    owners = sorted({row.client for row in rows})
    if len(owners) > 1:
        raise DataError(
            f"expected the images of one client in {file}, got those of {len(owners)}, "
            f"{owners[0]} and {owners[1]} among them: list one client's alone"
        )
    if any(row.class_name for row in rows):
        return rows
    is_split = has_splits(folder)
    return [row._replace(class_name=_top_folder(PurePath(row.path), is_split)) for row in rows]


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
    plain = opened_rgb(file).convert("L" if channels == 1 else "RGB")
    side = size if run.config.data.name == "folder" else min(plain.size)
    square = ImageOps.fit(plain, (side, side), Image.Resampling.BILINEAR)
    pixels = np.asarray(square).reshape(side, side, channels).transpose(2, 0, 1)
    return resized(pixels[None], size)[0]


def _labels(names: Sequence[str], class_names: Sequence[str]) -> np.ndarray:
    """Return the position of each name among the classes (N,), -1 for none."""
    same = {composed(name): i for i, name in enumerate(class_names)}
    at = same | {name: i for i, name in enumerate(class_names)}
    return np.array([at.get(n, same.get(composed(n), -1)) for n in names], dtype=np.int64)


def _mixture(labels: np.ndarray, num_classes: int) -> np.ndarray | None:
    """Return the share of each class (K,), or None if the images are not all of one."""
    if (labels < 0).any():
        return None
    return np.bincount(labels, minlength=num_classes) / len(labels)
