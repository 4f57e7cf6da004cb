"""Images in memory: checked against a run, or written as a folder of the user's own."""

import contextlib
import csv
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pipeline.config.data import MAX_IMAGE_SIZE
from pipeline.data.image_folder import upright_rgb
from pipeline.data.items import Item, items_of
from spire_core.errors import DataError, first_line
from spire_core.network.words import words_in

METADATA = "metadata.csv"
FACTOR = 4  # of the side of images that every preset's network takes
NO_CLASS = "images"  # the folder of images without labels
MAX_BYTES = 255  # of a folder's name


def uint8_images(images: Any, image_shape: tuple[int, int, int]) -> np.ndarray:
    """Return images as uint8 (N, C, H, W) of a run's shape (C, H, W); DataError if they differ."""
    try:
        array = np.asarray(images)
    except (TypeError, ValueError, RuntimeError) as error:  # of several sizes, or on a GPU
        raise DataError(
            f"expected images uint8 (N, {', '.join(map(str, image_shape))}), got {error}: make "
            "one array of them"
        ) from error
    if array.ndim == 3:
        array = array[:, None]
    if array.dtype != np.uint8 or array.shape[1:] != image_shape:
        raise DataError(
            f"expected images uint8 (N, {', '.join(map(str, image_shape))}), got {array.dtype} "
            f"{array.shape}: scale them to the run's size and to 0..255"
        )
    return array


def write_folder(
    folder: Path,
    images: Iterable[Any],
    labels: Sequence[Any] | None = None,
    clients: Sequence[Any] | None = None,
    captions: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Write images as PNG files below class folders, with metadata if they have clients.

    `images` as `spire.write_images` takes them. Returns the settings that train on the folder, by
    whole key, at the longest side that an image has and a run takes. DataError if the folder holds
    files or cannot be written, if a list has another length than the images, if some images alone
    have a client or a caption, for captions without clients, and for a label that can name no
    folder.
    """
    with _writing(repr(str(folder))):
        folder = folder.expanduser().resolve()
        is_taken = folder.exists() and (not folder.is_dir() or any(folder.iterdir()))
    if is_taken:
        raise DataError(f"expected a new or empty folder, got {folder}: name another")
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)  # of a process that was killed
    try:
        with _writing(folder):
            part.mkdir(parents=True)
        settings = _written(part, items_of(images, labels, clients, captions))
        with _writing(folder):
            part.replace(folder)
    except BaseException:  # nothing half-written is left, which the next try would refuse
        shutil.rmtree(part, ignore_errors=True)
        raise
    return {"data.name": "folder", "data.path": str(folder)} | settings


@contextlib.contextmanager
def _writing(what: object) -> Iterator[None]:
    """Raise DataError where something cannot be written."""
    try:
        yield
    except (OSError, ValueError) as error:
        raise DataError(
            f"expected to write {what}, got {error}: correct that, or name another folder"
        ) from error


def _written(folder: Path, items: Iterable[Item]) -> dict[str, Any]:
    """Write images and metadata into an empty folder; return the settings beside its path."""
    rows, labels, side = [], [], 0
    for i, item in enumerate(items):
        image = _pil(item.image, i)
        label = NO_CLASS if item.label is None else str(item.label).strip()  # as read again
        is_left_out = label.startswith(".") and item.client is None  # a folder that is not read
        if is_left_out or not _names_folder(label):
            raise DataError(f"expected labels that can name a folder, got {label!r:.80}: rename it")
        if item.caption is not None and item.client is None:
            raise DataError("expected clients with captions, got none: say whose each image is")
        file = folder / label / f"{i:07d}.png"
        with _writing(f"image {i}"):
            file.parent.mkdir(exist_ok=True)
            image.save(file)
        side = max(side, *image.size)
        labels.append(item.label)
        rows.append((file.relative_to(folder).as_posix(), item.client, item.caption, label))
    if not rows:
        raise DataError("expected images, got none: give at least one")
    _check_all_or_none("label", labels)
    for at, name in ((1, "client"), (2, "caption")):
        _check_all_or_none(name, [row[at] for row in rows])
    _check_apart([row[1] for row in rows])
    settings = {"data.image_size": min(-(-side // FACTOR) * FACTOR, MAX_IMAGE_SIZE)}
    return settings | (_write_metadata(folder, rows) if rows[0][1] is not None else {})


def _names_folder(label: str) -> bool:
    """Return whether a label can be the name of a folder beside the metadata."""
    try:
        num_bytes = len(label.encode())
    except UnicodeEncodeError:
        return False
    is_taken = label in ("", ".", "..", METADATA)
    return num_bytes <= MAX_BYTES and not is_taken and not {"/", "\0"} & {*label}


def _check_all_or_none(name: str, values: Sequence[Any]) -> None:
    """Raise DataError if some images alone have a value."""
    missing = [i for i, value in enumerate(values) if value is None]
    if 0 < len(missing) < len(values):
        raise DataError(
            f"expected a {name} of every image or of none, got none of image {missing[0]}: add it"
        )


def _check_apart(clients: Sequence[Any]) -> None:
    """Raise DataError for two clients of one name, as it is read again: they would be merged."""
    by_name = dict[str, Any]()
    for client in clients:
        first = by_name.setdefault(str(client).strip(), client)
        if str(first) != str(client):
            raise DataError(
                f"expected clients that differ in more than blanks around them, got {first!r:.50} "
                f"and {client!r:.50}: rename one"
            )


def _write_metadata(folder: Path, rows: Sequence[tuple[Any, ...]]) -> dict[str, Any]:
    """Write who holds each image; return the settings that use it."""
    has_captions = rows[0][2] is not None
    columns = ["path", "client", "caption", "class"]
    with _writing(METADATA), (folder / METADATA).open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(name for name in columns if has_captions or name != "caption")
        table.writerows(row if has_captions else (*row[:2], row[3]) for row in rows)
    settings = {"data.metadata": METADATA, "partition.name": "natural"}
    if not has_captions:
        return settings
    words = words_in([str(row[2] or "") for row in rows])  # of an empty caption a run tells
    return settings | {"model.text": "words", "model.words": words}


def _array(image: Any) -> np.ndarray:
    """Return an image as an array; numbers of a tensor that NumPy has no type for, as float32."""
    detach = getattr(image, "detach", None)  # of a tensor with gradients, or on a GPU
    if detach is None:
        return np.asarray(image)
    tensor = detach().cpu()
    try:
        return np.asarray(tensor)
    except TypeError:
        return np.asarray(tensor.float())


def _pil(image: Any, i: int) -> Image.Image:
    """Return an image as PIL's, grey or RGB; DataError if it is none."""
    try:
        if isinstance(image, Image.Image) and image.mode[0] not in "IF":
            rgb = upright_rgb(image)
            return rgb.convert("L") if image.mode in ("1", "L") else rgb
        array = _array(image)
    # Of a damaged file, of rows of several lengths, or of a sparse tensor.
    except (OSError, ValueError, TypeError, RuntimeError) as error:
        got = first_line(error)
        raise DataError(f"expected image {i} of whole rows, got {got}: mend it") from error
    if array.ndim == 3 and array.shape[0] in (1, 3) and array.shape[2] not in (1, 3):
        array = array.transpose(1, 2, 0)
    if array.dtype.kind == "f" and array.size and array.min() >= 0.0 and array.max() <= 1.0:
        array = np.round(array * 255).astype(np.uint8)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    is_image = array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 3)
    if array.dtype != np.uint8 or not is_image or not array.size:
        raise DataError(
            f"expected image {i} as uint8 (H, W) or (H, W, 3), or numbers in 0..1, got "
            f"{array.dtype} {array.shape}: convert it"
        )
    return Image.fromarray(np.ascontiguousarray(array))
