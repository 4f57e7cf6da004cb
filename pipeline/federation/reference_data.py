"""The test split that scores compare with, if the settings ask for it; what cannot be is refused.

No client holds it: partitions that deal images out deal those of the training split.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from pipeline.config.schema import Config
from pipeline.data.datasets import ImageData, load
from pipeline.data.resize import resized
from spire_core.config.checks import require
from spire_core.config.eval import HELDOUT, TEST_SPLIT
from spire_core.errors import ConfigError, DataError, SplitError
from spire_core.evaluation.reference_split import ReferenceSplit, reference_counts

NAMED = f"with eval.reference={TEST_SPLIT}"
USE_HELDOUT = f"set eval.reference={HELDOUT}"


def reference_data(config: Config, data: ImageData) -> ImageData | None:
    """Return the test split beside the training images `data`; None without use for it.

    Raises ConfigError if the data have none, or one of other classes or shapes.
    """
    if config.eval.reference == HELDOUT:
        return None
    settings = config.data
    if settings.name == "folder":  # the two splits have equally many channels
        settings = replace(settings, channels=data.images.shape[1])
    try:
        found = load(settings, "test")
    except SplitError as error:
        raise ConfigError(
            f"expected data with a test split {NAMED}, got {data.name} without: add images to it, "
            f"or {USE_HELDOUT}"
        ) from error
    require(
        found.sha256 != data.sha256,
        f"a test split of {data.name} with images of its own {NAMED}",
        "the training split again",
        f"correct the data, or {USE_HELDOUT}",
    )
    kinds = [(one.class_names, one.images.shape[1:]) for one in (data, found)]
    require(
        kinds[0] == kinds[1],
        f"classes and shape of the training images in the test split of {data.name} {NAMED}",
        f"{len(found.class_names)} classes and {found.images.shape[1:]}",
        f"correct the data, or {USE_HELDOUT}",
    )
    return found


def check_sizes(found: ImageData, mixtures: Mapping[int, np.ndarray], least: int) -> None:
    """Raise DataError if a test split has fewer than `least` images in a client's mixture (K,)."""
    held = np.bincount(found.labels, minlength=len(found.class_names))
    for client_id, mixture in mixtures.items():
        num_images = reference_counts(mixture, held).sum()
        if num_images < least:
            raise DataError(
                f"expected a test split with at least {least} images in the class mixture of each "
                f"client that is evaluated, got {num_images} for client {client_id}: add images of "
                f"its classes, or {USE_HELDOUT}"
            )


def reference_split(found: ImageData, image_size: int | None) -> ReferenceSplit:
    """Return a test split at the size of the experiment."""
    return ReferenceSplit(resized(found.images, image_size), found.labels)
