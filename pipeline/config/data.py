"""Settings of the images (`data.*`)."""

from dataclasses import dataclass

from pipeline.data.catalog import dataset_spec
from spire_core.errors import ConfigError


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
            dataset_spec(self.name)
        elif not self.path or self.image_size is None:
            raise ConfigError(
                "data.name=folder expects data.path (a folder with one subfolder of images per "
                f"class) and data.image_size, got path={self.path} and image_size={self.image_size}"
            )
        if self.image_size is not None and self.image_size < 1:
            raise ConfigError(f"expected data.image_size of at least 1, got {self.image_size}")
