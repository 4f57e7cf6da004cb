"""The images of a client that arrives, with captions: a folder's, or a data set's test split.

Pre-training uses no test split. N images of C channels, K classes of the run.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from pipeline.config.data import DataConfig, is_outside
from pipeline.config.schema import Config
from pipeline.data import image_folder
from pipeline.data.arrays import METADATA, as_pil, items_of
from pipeline.data.catalog import SPECS
from pipeline.data.datasets import fitting, load
from pipeline.data.resize import resized
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
        captions, num_images = self.captions, len(self.images)
        if captions is None or (are_captions(captions) and len(captions) == num_images):
            return
        raise DataError(
            f"expected a list of {num_images} texts as captions, got {captions!r:.80}: give one "
            "for each image"
        )


def load_arrival(
    run: SavedRun, data: str, classes: Sequence[str] = (), root: str | None = None
) -> ArrivingImages:
    """Return a new client's images at the run's size.

    `data` is the name of a data set, whose test split is taken, or a folder of images, flat or with
    one subfolder per class; `classes` limits it to classes by name. For a run with text
    the captions are the data set's, or those of the folder's `captions_file`. The mixture is None
    if the classes are not all of the run's. Raises ConfigError if `data` is neither or a class is
    unknown, DataError if the images do not fit the run.
    """
    folder, size, stored = Path(data).expanduser(), run.image_shape[-1], None
    if data in SPECS or (not folder.is_dir() and is_outside(data)):
        # Of another package: its data lie where they lay for the run.
        is_same = data == run.config.data.name and is_outside(data)
        path = run.config.data.path if is_same else None
        stored = load(DataConfig(data, root, path, size), "test")
        names, texts = stored.class_names, stored.captions or [""] * len(stored.labels)
        labelled = zip(stored.labels, texts, strict=True)
        rows = [image_folder.Row("", names[label], caption=text) for label, text in labelled]
    elif folder.is_dir():
        rows = _rows(run, folder)
    else:
        raise ConfigError(
            f"expected a data set out of {', '.join(SPECS)} or a folder of images, got {data!r}: "
            "name one of them"
        )
    for given in classes:
        if given not in (known := sorted({row.class_name for row in rows} - {""})):
            listed = ", ".join(known) or "none, since there are no class folders"
            raise ConfigError(f"expected classes out of {listed}, got {given!r}: correct --classes")
    chosen = [i for i, row in enumerate(rows) if not classes or row.class_name in classes]
    rows = [rows[i] for i in chosen]
    if not rows:
        raise DataError(f"expected images in {folder}, got none: add some, such as .png or .jpg")
    if stored is None:
        files = [folder / row.path for row in rows]
        opened = image_folder.opened(files, run.config.data.on_bad)
        found = {i: _fitted(image, run) for i, image in opened}
        rows, images = [rows[i] for i in found], np.stack([*found.values()])
    else:
        images = resized(stored.images[chosen], size)
        if images.shape[1:] != run.image_shape:
            raise DataError(
                f"expected images of {run.image_shape[0]} channels, as the run's, got {data} of "
                f"{images.shape[1]}: name other data"
            )
    captions = tuple(row.caption for row in rows) if run.has_text and rows[0].caption else None
    classes_of_run = {composed(name): i for i, name in enumerate(run.class_names)}
    labels = np.array([classes_of_run.get(composed(row.class_name), -1) for row in rows])
    mixture = None
    if (labels >= 0).all():
        mixture = np.bincount(labels, minlength=len(run.class_names)) / len(labels)
    return ArrivingImages(images, mixture, captions, labels)


def arrival_of(run: SavedRun, images: Any) -> ArrivingImages:
    """Return a new client's images in memory, as `spire.write_images` takes them.

    DataError for one that is no image.
    """
    items = [*items_of(images)]
    captions = [str(item["caption"]) for item in items if run.has_text and item.get("caption")]
    found = [_fitted(as_pil(item["image"], i), run) for i, item in enumerate(items)]
    shape = (0, *run.image_shape)
    return ArrivingImages(
        np.stack(found) if found else np.empty(shape, np.uint8),
        captions=captions or None,
    )


def held_back(run: SavedRun, arriving: ArrivingImages) -> np.ndarray:
    """Return which images (N,) the run lets no new client train on, by classes and captions."""
    partition, labels = run.config.partition, arriving.labels
    if labels is None:
        labels = np.full(len(arriving.images), -1)
    found = np.zeros(len(labels), dtype=bool)
    for pattern in (*partition.hidden, *partition.hidden_from_new):
        found |= fitting(pattern, labels, run.class_names, arriving.captions)
    return found


def data_root(run: SavedRun, config: Config) -> str | None:
    """Return where data sets are: as a new client's settings say, or as the run had it.

    None, for the usual place, if they have moved.
    """
    began = run.config.data.root
    return config.data.root or (began if began and Path(began).is_dir() else None)


def captions_file(run: SavedRun) -> str:
    """Return the file in a new client's folder that lists its images with their captions.

    It has the name and the columns of the run's own `data.metadata`.
    """
    return run.config.data.metadata or METADATA


def _rows(run: SavedRun, folder: Path) -> list[image_folder.Row]:
    """Return a row for each image of a folder: those of its `captions_file`, for a run with text.

    Without a file, or where it names no class at all, the top folder is an image's class, as in
    training, below that of a split. DataError unless the file's rows are of one client.
    """
    rows, file = list[image_folder.Row](), folder / captions_file(run)
    if run.has_text and file.is_file():
        columns = (run.config.data.clients, run.config.data.captions)
        rows = image_folder.listed_rows(folder, captions_file(run), *columns, is_arriving=True)
        owners = sorted({row.client for row in rows})
        if len(owners) > 1:
            raise DataError(
                f"expected the images of one client in {file}, got those of {len(owners)}, "
                f"{owners[0]} and {owners[1]} among them: list one client's alone"
            )
        if any(row.class_name for row in rows):
            return rows
    is_split = image_folder.has_splits(folder)

    def with_class(row: image_folder.Row) -> image_folder.Row:
        parts = PurePath(row.path).parts
        above = parts[is_split and parts[0] in image_folder.SPLITS : -1]
        return row._replace(class_name=above[0] if above else "")

    found = (file.relative_to(folder).as_posix() for file in image_folder.images_below(folder))
    return [with_class(row) for row in rows or (image_folder.Row(path) for path in found)]


def _fitted(image: Image.Image, run: SavedRun) -> np.ndarray:
    """Return an image's central square as (C, H, W) uint8, scaled as the run's own images."""
    channels, _, size = run.image_shape
    plain = image.convert("L" if channels == 1 else "RGB")
    side = size if run.config.data.name == "folder" else min(plain.size)
    square = ImageOps.fit(plain, (side, side), Image.Resampling.BILINEAR)
    pixels = np.asarray(square).reshape(side, side, channels).transpose(2, 0, 1)
    return resized(pixels[None], size)[0]
