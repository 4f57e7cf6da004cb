"""Files that verbs write where the user says."""

import os
from pathlib import Path

from pipeline.files.paths import lasting
from spire_core.errors import ConfigError


def writable_png(path: str | Path) -> Path:
    """Return the path of a PNG to write, and make its folder; ConfigError if that fails."""
    png = Path(path)
    if str(path).endswith("/") or os.path.isdir(os.path.expanduser(path)):  # not FOLDER.png
        raise ConfigError(f"expected a file to write in --out, got the folder {path}: add a name")
    if png.suffix.lower() not in ("", ".png"):
        raise ConfigError(f"expected --out with .png at its end, got {png}: images are PNGs")
    try:
        png = lasting(path, "--out").with_suffix(".png")
        png.parent.mkdir(parents=True, exist_ok=True)
        problem = None if os.access(png.parent, os.W_OK) else "its folder is read-only"
    except ConfigError:
        raise
    except (OSError, RuntimeError, ValueError) as error:  # no home, no name, or a NUL in it
        problem = str(error)
    if problem or png.is_dir():
        problem = problem or "it is a folder"
        raise ConfigError(
            f"expected a file that can be written, got {png} ({problem}): name another"
        )
    return png
