"""Images in memory: read as they come, or written as a folder of the user's own."""

import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pipeline.config.data import MAX_IMAGE_SIZE
from pipeline.data.image_folder import upright_rgb
from spire_core.errors import DataError
from spire_core.network.words import words_in

METADATA = "metadata.csv"
FACTOR = 4  # of the side of images that every preset's network takes
NO_CLASS = "images"  # the folder of images without labels


def write_folder(
    folder: str | Path,
    images: Iterable[Any],
    labels: Sequence[Any] | None = None,
    clients: Sequence[Any] | None = None,
    captions: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Write images as PNG files below class folders, with metadata if they have clients.

    `images` as `spire.write_images` takes them. Returns the settings that train on the folder, by
    whole key, at the longest side that an image has and a run takes. DataError if the folder holds
    files, if a list has another length than the images, if some images alone have a label, a client
    or a caption, for captions without clients, and for a label that can name no folder.
    """
    folder = Path(folder).expanduser().resolve()
    if folder.exists() and any(folder.iterdir()):
        raise DataError(f"expected a new or empty folder, got {folder}: name another")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as scratch:
        part = Path(scratch) / "images"
        part.mkdir()
        settings = _written(part, images, {"label": labels, "client": clients, "caption": captions})
        part.replace(folder)
    return {"data.name": "folder", "data.path": str(folder)} | settings


def _written(
    folder: Path, images: Iterable[Any], given: Mapping[str, Sequence[Any] | None]
) -> dict[str, Any]:
    """Write images and metadata into an empty folder; return the settings beside its path."""
    import pandas as pd  # takes a second

    lists = {name: list(values) for name, values in given.items() if values is not None}
    rows, side = list[dict[str, Any]](), 0
    for i, item in enumerate(items_of(images)):
        item |= {name: values[i] for name, values in lists.items() if i < len(values)}
        known = {name: _plain(item.get(name)) for name in given}
        image, label = as_pil(item["image"], i), known["label"]
        label = NO_CLASS if label is None else str(label)
        if Path(label).name != label or label[:1] in ("", "."):
            raise DataError(f"expected labels that can name a folder, got {label!r}: rename it")
        path = f"{label}/{i:07d}.png"
        (folder / label).mkdir(exist_ok=True)
        image.save(folder / path)
        side = max(side, *image.size)
        rows.append({"path": path} | known)
    if not rows:
        raise DataError("expected images, got none: give at least one")
    for name, values in lists.items():
        if len(values) != len(rows):
            raise DataError(f"expected {len(rows)} {name}s for as many images, got {len(values)}")
    table = pd.DataFrame(rows, dtype=object)
    for name in given:
        missing = np.flatnonzero(table[name].isna())
        if 0 < len(missing) < len(table):
            raise DataError(
                f"expected a {name} of every image or of none, got none of image {missing[0]}: "
                "add it"
            )
    table = table.dropna(axis="columns").rename(columns={"label": "class"})
    settings: dict[str, Any] = {"data.image_size": min(-(-side // FACTOR) * FACTOR, MAX_IMAGE_SIZE)}
    if "client" in table:
        table.to_csv(folder / METADATA, index=False)
        settings |= {"data.metadata": METADATA, "partition.name": "natural"}
    if "caption" in table:
        if "client" not in table:
            raise DataError("expected clients with captions, got none: say whose each image is")
        settings |= {"model.text": "words", "model.words": words_in([*map(str, table["caption"])])}
    return settings


def items_of(images: Any) -> Iterator[dict[str, Any]]:
    """Yield each image and what is known of it by name, as Hugging Face's data sets do."""
    is_indexed = hasattr(images, "__len__")  # a torch Dataset, which need not end by itself
    for found in (images[i] for i in range(len(images))) if is_indexed else images:
        if isinstance(found, Mapping):
            yield dict(found)
        elif isinstance(found, tuple | list) and len(found) == 2:
            yield {"image": found[0], "label": found[1]}
        else:
            yield {"image": found}


def _plain(value: Any) -> Any:
    """Return a scalar of torch or NumPy as Python's."""
    return value.item() if hasattr(value, "item") else value


def as_pil(image: Any, i: int) -> Image.Image:
    """Return an image as PIL's, grey or RGB; DataError if it is none."""
    if isinstance(image, Image.Image) and image.mode[0] not in "IF":
        rgb = upright_rgb(image)
        return rgb.convert("L") if image.mode in ("1", "L") else rgb
    if detach := getattr(image, "detach", None):
        image = detach().cpu()
    array = np.asarray(image)
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
