"""The format of the files of runs, one number for all of them.

The record, the start, manifests, clients' states, evaluations and the model carry it. The other
files of a run have the format of its record. A file without the number is of format 1.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spire_core.errors import FormatError

FORMAT = 1  # raise it when earlier versions can no longer read what is written
FORMAT_KEY = "run_format"


def check_format(stored: Mapping[str, Any], path: Path) -> None:
    """Raise FormatError if the values in a file, or its header, are of a newer format.

    ValueError, one of `damage.DAMAGE`, if their number is none.
    """
    number = int(stored.get(FORMAT_KEY, 1))
    if number < 1:
        raise ValueError(f"{number} as the format")
    if number > FORMAT:
        raise FormatError(
            f"expected a file of format {FORMAT} or earlier in {path}, got format {number}, of a "
            "newer version: use that version (nothing was deleted)"
        )
