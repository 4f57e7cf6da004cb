"""JSON objects in atomic files."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.files.atomic import write_whole
from pipeline.files.damage import read_object

_log = logging.getLogger(__name__)


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write values atomically and lastingly."""
    write_whole(path, (json.dumps(values, indent=1) + "\n").encode(), is_lasting=True)


def read_json(path: Path) -> dict[str, Any] | None:
    """Return the stored values, or None if the file is missing or, with a warning, damaged."""
    try:
        return read_object(path)
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, RecursionError) as error:
        _log.warning("damaged: %s is passed over: %s", path, error)
        return None
