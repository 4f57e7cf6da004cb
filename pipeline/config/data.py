"""Settings of the images (`data.*`)."""

import difflib
from dataclasses import dataclass

from spire_core.errors import ConfigError

DATASETS = ("mnist", "fashion_mnist", "cifar10")


@dataclass(frozen=True)
class DataConfig:
    """Which images the clients hold.

    root: where fetched data sets lie; None means $SPIRE_DATA, or else `data` in
        `ray_job.base_folder()`.
    path: the image folder when `name` is "folder"; for the other names a folder with the original
        files to fetch from.
    image_size: side in pixels; None means the original size, 28 padded to 32.
    """

    name: str = "mnist"
    root: str | None = None
    path: str | None = None
    image_size: int | None = None

    def __post_init__(self) -> None:
        if self.name != "folder":
            check_dataset(self.name)
        elif not self.path or self.image_size is None:
            raise ConfigError(
                "data.name=folder expects data.path (a folder with one subfolder of images per "
                f"class) and data.image_size, got path={self.path} and image_size={self.image_size}"
            )
        if self.image_size is not None and self.image_size < 1:
            raise ConfigError(f"expected data.image_size of at least 1, got {self.image_size}")


def check_dataset(name: str) -> None:
    """Raise ConfigError unless a data set of this name is known."""
    if name not in DATASETS:
        known = [*DATASETS, "folder"]
        close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        hint = f": did you mean {close[0]}?" if close else ""
        raise ConfigError(f"expected a data set out of {', '.join(known)}, got {name!r}{hint}")
