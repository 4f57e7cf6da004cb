"""Settings of the images (`data.*`)."""

from dataclasses import dataclass
from typing import Annotated

from spire_core.config.checks import Choice, Range, check_choice, check_fields, require
from spire_core.plugins import Plugins

DATASETS = ("mnist", "fashion_mnist", "cifar10", "fonts")
WITH_CLIENTS = ("fonts", "folder")  # data whose clients exist
MAX_IMAGE_SIZE = 1024  # pixels of a side
OTHER_DATASETS = Plugins("dataset", (*DATASETS, "folder"))


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
    "folder", 1, 3, or "auto", which is 1 if no image has a colour. `on_bad`: of "folder", "stop"
    refuses files that are no images, and "skip" leaves them out and says how many.

    `metadata`: for "folder", a CSV, JSON lines or Parquet file in `path` that lists the images.
    `clients` and `captions`: its columns that say whose an image is and what it shows.
    """

    name: str = "mnist"
    root: str | None = None
    path: str | None = None
    image_size: Annotated[int | None, Range(1, MAX_IMAGE_SIZE)] = None
    channels: int | str = "auto"
    on_bad: Annotated[str, Choice("stop", "skip")] = "stop"
    metadata: str | None = None
    clients: str = "client"
    captions: str = "caption"

    def __post_init__(self) -> None:
        check_fields(self, "data")
        is_folder, named = self.name == "folder", f"with data.name={self.name}"
        if not is_folder and not is_outside(self.name):
            check_dataset(self.name)
        is_met = not is_folder or bool(self.path and self.image_size)
        got = f"path={self.path} and image_size={self.image_size}"
        advice = "name a folder with one subfolder of images per class, and the side of the images"
        require(is_met, f"data.path and data.image_size {named}", got, advice)
        is_met = self.channels in (("auto", 1, 3) if is_folder else ("auto",))
        require(is_met, f"data.channels=auto {named}", self.channels, "a folder takes 1 and 3, too")
        is_met = self.metadata is None or is_folder
        require(is_met, f"no data.metadata {named}", self.metadata, "it lists images of a folder")


def side(width: int, image_size: int | None) -> int:
    """Return the pixels of a side that a model sees of images of this width."""
    return image_size if image_size is not None else (32 if width == 28 else width)


def check_dataset(name: str) -> None:
    """Raise ConfigError unless a data set of this name is known."""
    if name not in DATASETS:
        check_choice("data.name", name, (*DATASETS, "folder", *OTHER_DATASETS.names()))
