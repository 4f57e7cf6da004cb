"""Settings of the images (`data.*`)."""

import os
from dataclasses import dataclass
from typing import Annotated, Any

from spire_core.config.checks import Range, check_fields, hint, require
from spire_core.errors import ConfigError
from spire_core.plugins import Plugins

DATASETS = ("mnist", "fashion_mnist", "cifar10", "fonts")
WITH_CLIENTS = ("fonts", "folder")  # data whose clients exist
MAX_IMAGE_SIZE = 1024  # pixels of a side


def _fault(name: str, value: Any) -> str | None:
    """Return what was expected of a data set from outside, None if it can be loaded."""
    return None if callable(value) else "a function load(split, path)"


OTHER_DATASETS = Plugins("dataset", (*DATASETS, "folder"), _fault)


def is_outside(name: str) -> bool:
    """Return whether another package brings the data set."""
    return OTHER_DATASETS.find(name) is not None


@dataclass(frozen=True)
class DataConfig:
    """Which images the clients hold.

    `root`: the folder of fetched data sets; None is $SPIRE_DATA, or else `data` in `base_folder()`.
    `path`: the image folder if `name` is "folder"; for the data set of another package, an argument
    of its function; for the other names, a folder with the original files to fetch from.
    `image_size`: side in pixels; None is the original size, 28 padded to 32. `channels`: of
    "folder", 1, 3, or "auto", which is 1 if no image has a colour.

    `metadata`: for "folder", a CSV, JSON lines or Parquet file in `path` that lists the images.
    `clients` and `captions`: its columns that say whose an image is and what it shows.
    """

    name: str = "mnist"
    root: str | None = None
    path: str | None = None
    image_size: Annotated[int | None, Range(1, MAX_IMAGE_SIZE)] = None
    channels: int | str = "auto"
    metadata: str | None = None
    clients: str = "client"
    captions: str = "caption"

    def __post_init__(self) -> None:
        check_fields(self, "data")
        if self.name != "folder" and not is_outside(self.name):
            check_dataset(self.name)
        require(
            self.name != "folder" or bool(self.path and self.image_size),
            "data.path and data.image_size with data.name=folder",
            f"path={self.path} and image_size={self.image_size}",
            "name a folder with one subfolder of images per class, and the side of the images",
        )
        allowed = ("auto", 1, 3) if self.name == "folder" else ("auto",)
        require(
            self.channels in allowed,
            f"data.channels as {' or '.join(map(str, allowed))} with data.name={self.name}",
            repr(self.channels),
            "auto keeps images as they are",
        )
        require(
            self.metadata is None or self.name == "folder",
            f"no data.metadata with data.name={self.name}",
            self.metadata,
            "use null, or data=folder for images of your own",
        )


def check_dataset(name: str) -> None:
    """Raise ConfigError unless a data set of this name is known."""
    if name in DATASETS:
        return
    known = (*DATASETS, "folder", *OTHER_DATASETS.names())
    is_path = os.path.isdir(os.path.expanduser(name))
    mine = "for images of your own, take the preset folder-cpu with data.path=FOLDER"
    advice = mine if is_path else hint(name, known)
    raise ConfigError(f"expected a data set out of {', '.join(known)}, got {name!r}: {advice}")
