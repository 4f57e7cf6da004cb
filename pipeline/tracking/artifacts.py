"""The contents of artifacts, in the form that MLflow's UI expects: images, tables, dicts."""

import json
import math
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.config.load import write_yaml
from pipeline.files.paths import masked
from pipeline.tracking.outbox import now_ms

PREVIEW_SIZE = 256  # pixels of the longer side, as MLflow's own


def check_image(image: np.ndarray) -> None:
    """Raise ValueError unless this is an image (H, W, C) of uint8 with 1, 3 or 4 channels."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] not in (1, 3, 4):
        raise ValueError(
            "expected an image (H, W, C) of uint8 with 1, 3 or 4 channels, got "
            f"{image.shape} of {image.dtype}: convert it before it is logged"
        )


def image_name(key: str, step: int) -> str:
    """Return the path of one step of an image series; MLflow's UI reads key and step from it."""
    moment = f"timestamp+{now_ms()}+{uuid.uuid4()}"
    return f"images/{key.replace('/', '~')}+step+{step}+{moment}.png"


def preview_name(name: str) -> str:
    """Return the path of the preview of an image, which MLflow's UI shows first."""
    return f"{name.removesuffix('.png')}+compressed.webp"


def write_image(path: Path, image: np.ndarray) -> None:
    """Write an image (H, W, C) uint8, and its preview beside it."""
    from PIL import Image

    picture = Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)
    scale = PREVIEW_SIZE / max(picture.size)
    size = [max(1, int(side * scale)) for side in picture.size]
    picture.save(path)
    picture.resize((size[0], size[1])).save(path.with_name(preview_name(path.name)))


def table_text(columns: Mapping[str, Sequence[Any]]) -> str:
    """Return columns of one length as MLflow's JSON of a table; ValueError if lengths differ.

    A number that is not finite becomes null.
    """
    lists = [[_json_value(value) for value in column] for column in columns.values()]
    rows = [list(row) for row in zip(*lists, strict=True)]
    return json.dumps({"columns": list(columns), "data": rows}, allow_nan=False)


def _json_value(value: Any) -> Any:
    value = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(value, float) and not math.isfinite(value) else value


def dict_text(values: Mapping[str, Any], suffix: str) -> str:
    """Return nested values as YAML or, for the suffix .json, as JSON, without secrets."""
    plain = json.loads(json.dumps(masked(values)))  # YAML has no word for tuples
    if suffix == ".json":
        return json.dumps(plain, indent=2)
    return write_yaml(plain, indent=2, default_flow_style=False) + "\n"
