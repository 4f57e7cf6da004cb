"""Links in a run's folder, which lead to files of somebody else."""

import os
from collections.abc import Iterator
from pathlib import Path

from spire_core.errors import RunError


def refuse_links(folder: Path, is_own: bool = False) -> None:
    """Raise RunError if anything in a run's folder is a link.

    In an own run the folders of single clients are skipped: their files are read one by one.
    """
    for path in _links(folder, folder / "clients" if is_own else None):
        raise RunError(
            f"expected files and folders alone in a run's folder, got the link {path}: delete it, "
            "or put there what it leads to"
        )


def _links(folder: Path, shallow: Path | None) -> Iterator[Path]:
    left = [folder]
    while left:
        here = left.pop()
        try:
            with os.scandir(here) as entries:
                for entry in entries:
                    if entry.is_symlink():
                        yield Path(entry.path)
                    elif here != shallow and entry.is_dir(follow_symlinks=False):
                        left.append(Path(entry.path))
        except (FileNotFoundError, NotADirectoryError):  # a running run has just dropped it
            continue
