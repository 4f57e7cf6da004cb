"""The format of the files of runs, one number for all of them.

The record, the start, manifests, clients' states, evaluations and the model carry it. The other
files of a run have the format of its record.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spire_core.errors import FormatError

FORMAT = 2  # raise it when the format changes: runs of other formats are not read
FORMAT_KEY = "run_format"


def check_format(stored: Mapping[str, Any], path: Path) -> None:
    """Raise FormatError if the values in a file, or its header, are of another format.

    ValueError, one of `damage.DAMAGE`, if their number is none.
    """
    number = int(stored.get(FORMAT_KEY, FORMAT))
    if number < 1:
        raise ValueError(f"{number} as the format")
    if number != FORMAT:
        age = "a newer" if number > FORMAT else "an earlier"
        raise FormatError(
            f"expected a file of format {FORMAT} in {path}, got format {number}, of {age} version: "
            "use that version, or start a new run (nothing was deleted)"
        )
