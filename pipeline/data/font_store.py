"""The stored data set of fonts: drawn glyphs, their fonts' names, and the hashes of both.

Its folder is `<root>/fonts/` with the arrays of `draw_fonts` as `names.npy` and `glyphs_<S>.npy`,
and `drawn.json` with their SHA-256 and the version of FreeType. F fonts, S pixels of a side.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.data.catalog import DatasetSpec
from pipeline.data.formats import Part
from pipeline.data.glyphs import (
    CHARACTERS,
    SIZES,
    arriving,
    draw_fonts,
    files_hash,
    freetype_version,
)
from pipeline.data.hashes import sha256_of
from pipeline.files.damage import DAMAGE, read_object
from pipeline.files.json_files import write_json
from spire_core.errors import DataError
from spire_core.partition.natural import NaturalClients

DRAWN = "drawn.json"


@dataclass(frozen=True, eq=False)
class StoredFonts:
    """Glyphs of one size (F, 62, S, S) uint8, their fonts, and the SHA-256 of both."""

    names: tuple[str, ...]
    glyphs: np.ndarray
    sha256: str

    @property
    def images(self) -> np.ndarray:
        """The glyphs as images (F * 62, 1, S, S), font by font."""
        return self.glyphs.reshape(-1, 1, *self.glyphs.shape[2:])

    @property
    def labels(self) -> np.ndarray:
        """The character of each image (F * 62,), a position in `CHARACTERS`."""
        return np.tile(np.arange(len(CHARACTERS)), len(self.names))

    @property
    def clients(self) -> NaturalClients:
        """The fonts as clients."""
        owner = np.repeat(np.arange(len(self.names)), len(CHARACTERS))
        return NaturalClients(self.names, owner, arrives=arriving(self.names))


def drawn_from(
    spec: DatasetSpec, files: list[Part], log: Callable[[str], object]
) -> dict[str, np.ndarray]:
    """Return the arrays that known font files draw; DataError if the files are others."""
    got, want = files_hash(files), spec.sha256["files"][0]
    if got != want:
        raise DataError(
            f"expected the font files of {spec.name} with SHA-256 {want}, got {len(files)} files "
            f"with {got}: they are truncated or not the originals"
        )
    log(f"{spec.name}: drawing the glyphs of {len(files)} font files")
    arrays, version = draw_fonts(files), freetype_version()
    if drawn_hash(arrays) != spec.sha256["drawn"][0]:
        log(
            f"{spec.name}: FreeType {version} draws other pixels than the reference: compare "
            "scores with runs on the same data_sha256 only"
        )
    return arrays


def drawn_hash(arrays: Mapping[str, np.ndarray]) -> str:
    """Return the SHA-256 of all drawn arrays, in the order of their names."""
    return sha256_of(*(arrays[name] for name in sorted(arrays)))


def write_drawn(folder: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write the hashes of drawn arrays beside them."""
    hashes = {name: sha256_of(array) for name, array in arrays.items()}
    write_json(folder / DRAWN, {"freetype": freetype_version(), "sha256": hashes})


def load_fonts(folder: Path, image_size: int | None) -> StoredFonts:
    """Return the stored fonts, drawn at `image_size` or else at the largest size.

    DataError if a file is damaged.
    """
    size = image_size if image_size in SIZES else max(SIZES)
    try:
        hashes = read_object(folder / DRAWN)["sha256"]
        arrays = [_array(folder, name, hashes[name]) for name in ("names", f"glyphs_{size}")]
    except (*DAMAGE, OSError, MemoryError) as error:
        problem = " ".join(str(error).split())
        raise DataError(
            f"the stored data set in {folder} is damaged ({problem}): run `spire data fetch fonts`"
        ) from error
    names = tuple(str(name) for name in arrays[0])
    return StoredFonts(names, arrays[1], sha256_of(*arrays))


def _array(folder: Path, name: str, sha256: str) -> np.ndarray:
    path = folder / f"{name}.npy"
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    if sha256_of(array) != sha256:
        raise ValueError(f"{path} has not the SHA-256 that was stored with it")
    return array
