"""What `ray job submit --working-dir FOLDER` uploads: measured by Ray's own rules, before it does.

Ray walks the folder, obeys .gitignore and .rayignore, and zips the rest without compression.
"""

import logging
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

MAX_UPLOAD_BYTES = 100 * 2**20  # above this a job server answers with HTTP 413
IGNORE_FILE = ".rayignore"


@dataclass(frozen=True)
class Upload:
    """The files (path relative to the folder, size) that a job would get."""

    folder: Path
    num_bytes_of: dict[str, int] = field(repr=False)

    @property
    def num_bytes(self) -> int:
        return sum(self.num_bytes_of.values())

    @property
    def fits(self) -> bool:
        return self.num_bytes < MAX_UPLOAD_BYTES

    def largest(self, num: int) -> list[tuple[str, int]]:
        """Return the top-level entries that weigh most, with their sizes."""
        sizes: Counter[str] = Counter()
        for name, num_bytes in self.num_bytes_of.items():
            sizes[Path(name).parts[0]] += num_bytes
        return sizes.most_common(num)

    def describe(self) -> str:
        mib = 2**20
        most = ", ".join(f"{name} {size / mib:.1f}" for name, size in self.largest(3))
        what = f"{self.num_bytes / mib:.1f} MiB in {len(self.num_bytes_of)} files ({most})"
        if self.fits:
            return what
        return (
            f"{what}, and a job server takes less than {MAX_UPLOAD_BYTES // mib}: add what a job "
            f"does not need to {self.folder / IGNORE_FILE}"
        )


def measure_upload(folder: str | Path) -> Upload:
    """Return what Ray would upload of a folder; nothing is read but names and sizes."""
    from ray._private import ray_constants
    from ray._private.runtime_env import packaging

    folder = Path(folder).absolute()
    sizes: dict[str, int] = {}

    def note(path: Path) -> None:
        if path.is_file():
            sizes[str(path.relative_to(folder))] = path.stat().st_size

    excludes = packaging._get_excludes(folder, ray_constants.get_runtime_env_default_excludes())
    packaging._dir_travel(
        folder, [excludes], note, include_gitignore=True, logger=logging.getLogger(__name__)
    )
    return Upload(folder, sizes)
