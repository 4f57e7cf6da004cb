"""What a data set is: its settings, the known hashes of its arrays, and how it is loaded.

A stored data set is a folder `<root>/<name>/` with four arrays, `train_images.npy`,
`train_labels.npy`, `test_images.npy` and `test_labels.npy`, which `pipeline.fetch` puts there.
Images are (N, C, H, W) uint8 at their original size, labels (N,) int64.
"""

import difflib
import hashlib
import itertools
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps

from spire_core.errors import ConfigError, DataError

SPLITS = ("train", "test")
_CHUNK_VALUES = 2**23  # resized at a time


@dataclass(frozen=True)
class DatasetSpec:
    """A data set with known content; `sha256` has one hash per original file of each array."""

    name: str
    layout: str  # of the original files: "idx" or "cifar"
    image_shape: tuple[int, int, int]  # (C, H, W)
    counts: Mapping[str, int]  # split -> number of images
    class_names: tuple[str, ...]
    sha256: Mapping[str, tuple[str, ...]] = field(repr=False)  # "train_images" -> a hash per part


# Hashes of the decoded arrays as they are stored, labels as little-endian int64. CIFAR-10 comes
# as five training files, so it has five hashes, and a wrong file can be named.
_MNIST = DatasetSpec(
    "mnist",
    "idx",
    (1, 28, 28),
    {"train": 60000, "test": 10000},
    tuple("0123456789"),
    {
        "train_images": ("741c988805d008ac6e4c904b69001ba184c24b2c540a4ef403f4c71b676cf757",),
        "train_labels": ("e474323ac02fc156161b0bbb1f8c9cfeb327a74bcd9f9680a8385269a24f566c",),
        "test_images": ("6d87418db22cc8025d05968bec9bd5c3932904b23485740db143a061a2c9d161",),
        "test_labels": ("2fd8de6bdb8d11780b4b96dc57847bcfe6953f7c32aa48bfcd8237c3b7847243",),
    },
)
_FASHION = DatasetSpec(
    "fashion_mnist",
    "idx",
    (1, 28, 28),
    {"train": 60000, "test": 10000},
    (
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    ),
    {
        "train_images": ("2e487a6c89124f78f2d7521542223cafe96f7123c3ca13d447772ac6ecbb3012",),
        "train_labels": ("e3245b63f7c40d1c8b652835f19744d970c1613b40ddac6bcfc87b9c46e16a0b",),
        "test_images": ("c867c93ff95360594e8ec3287995350b824dd110b11595c0e13d5423f621867a",),
        "test_labels": ("d51d859896c55775b9e9e219b77ff03bcec1b6ac322f313544dc3f9e7bc94fae",),
    },
)
_CIFAR10 = DatasetSpec(
    "cifar10",
    "cifar",
    (3, 32, 32),
    {"train": 50000, "test": 10000},
    ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    {
        "train_images": (
            "a50e8b48728e1667d682a807155c375279d5ae321fb12242c02e3104a6bc8b21",
            "0b825e5592c3b72ea18d6ec2ff5f5b19d33e41a75f5039054a9bb87be3cf69a0",
            "c6ee1dd4601a69ec085d8ebf53ee6441775491a6839a0a9ae8fa198e88a3a429",
            "1f6b6c799cff375a9f8fae2fac909d51ee09f38a6a60eebb9e8fec6f47ddc48f",
            "58e3bbf713e28357476a351d3a05d056372f94c681d04ca9d62a076fdf2a643b",
        ),
        "train_labels": (
            "66145c918fed3a0358c4001da734fbc15cb584ddf34c823fa524e6b9c81542b7",
            "1074c604720c88e1f4d8408e1995944e9bc65877af3e8c5503da69209d57286b",
            "fe1021a9820682f7eb5cc7f65ff3d015d8a33876df6dd7787404f0fa8cf5937f",
            "1599745ad42ec41be72e2f3f716b65bac89321693690656a125b1ea3ca3feeea",
            "a3a7f0cf6cafd5b2d4610fd467bd87987a0a9ff93958b860a567c925a00ad56d",
        ),
        "test_images": ("177777c33ba79825320efa646ad04a94bdc3c80e4ebe3bd21724f8cdfd4b9d56",),
        "test_labels": ("cbb7365de8ed11f05cc4c3a1e7f78144127c5e851efd83762fb18202461230bb",),
    },
)
SPECS: Mapping[str, DatasetSpec] = {spec.name: spec for spec in (_MNIST, _FASHION, _CIFAR10)}


@dataclass(frozen=True)
class DataConfig:
    """Which images the clients hold.

    root: where fetched data sets lie; None means $SPIRE_DATA, or else ./data.
    path: the image folder when `name` is "folder"; for the other names a folder with the original
        files to fetch from.
    image_size: side in pixels; None means the original size, 28 padded to 32.
    """

    name: str = "mnist"
    root: str | None = None
    path: str | None = None
    image_size: int | None = None

    def __post_init__(self) -> None:
        if self.name != "folder":
            dataset_spec(self.name)
        elif not self.path or self.image_size is None:
            raise ConfigError(
                "data.name=folder expects data.path (a folder with one subfolder of images per "
                f"class) and data.image_size, got path={self.path} and image_size={self.image_size}"
            )
        if self.image_size is not None and self.image_size < 1:
            raise ConfigError(f"expected data.image_size of at least 1, got {self.image_size}")


@dataclass(frozen=True, eq=False)
class ImageData:
    """One split of a data set: images (N, C, H, W) uint8, read-only and mapped from disk where
    they are stored; labels (N,) int64; sha256 of both arrays."""

    name: str
    images: np.ndarray = field(repr=False)
    labels: np.ndarray = field(repr=False)
    class_names: tuple[str, ...]
    sha256: str
    split: str


def dataset_spec(name: str | DatasetSpec) -> DatasetSpec:
    """The record of the data set called `name`; a record is returned as it is.

    Raises ConfigError for an unknown name.
    """
    if isinstance(name, DatasetSpec):
        return name
    if name not in SPECS:
        known = [*SPECS, "folder"]
        close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        hint = f": did you mean {close[0]}?" if close else ""
        raise ConfigError(f"expected a data set out of {', '.join(known)}, got {name!r}{hint}")
    return SPECS[name]


def store_root(root: str | Path | None = None) -> Path:
    """The absolute folder of the stored data sets: `root`, or $SPIRE_DATA, or ./data."""
    return Path(root or os.environ.get("SPIRE_DATA") or "data").expanduser().resolve()


def sha256_of(*arrays: np.ndarray) -> str:
    """The SHA-256 of the arrays' bytes in C order, one after the other."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def mismatch(spec: DatasetSpec, array_name: str, part: int, array: np.ndarray) -> str | None:
    """What is wrong with one part of an array such as "train_images", or None if it is right."""
    split, kind = array_name.split("_")
    hashes = spec.sha256[array_name]
    size = spec.counts[split] // len(hashes)
    shape, dtype = ((size, *spec.image_shape), "uint8") if kind == "images" else ((size,), "int64")
    want = f"{dtype}{list(shape)} with SHA-256 {hashes[part]}"
    got = f"{array.dtype}{list(array.shape)} with SHA-256 {sha256_of(array)}"
    return None if got == want else f"expected {want}, got {got}"


def load(config: DataConfig, split: str) -> ImageData:
    """One split ("train" or "test") of the configured data set, at its stored size.

    A model sees `resized(data.images, config.image_size)`. Raises DataError when the data set was
    not fetched, is damaged, or is not a folder of images.
    """
    if split not in SPLITS:
        raise DataError(f"expected the split train or test, got {split!r}")
    if config.name != "folder":
        return load_stored(config.name, store_root(config.root), split)
    if config.path is None or config.image_size is None:
        raise ConfigError("expected data.path and data.image_size with data.name=folder")
    return load_folder(config.path, split, config.image_size)


def load_stored(name: str | DatasetSpec, root: Path, split: str) -> ImageData:
    """One split of a fetched data set, verified by SHA-256 on every call (CIFAR-10: 0.1-0.2 s).

    Raises DataError when it was not fetched or when a file is damaged, naming the file.
    """
    spec = dataset_spec(name)
    if not (root / spec.name).is_dir():
        raise DataError(
            f"expected the data set {spec.name} in {root / spec.name}, got nothing there: "
            f"run `spire data fetch {spec.name}`"
        )
    images, labels = (_stored_array(spec, root, f"{split}_{kind}") for kind in ("images", "labels"))
    sha256 = _combined(*spec.sha256[f"{split}_images"], *spec.sha256[f"{split}_labels"])
    return ImageData(spec.name, images, labels, spec.class_names, sha256, split)


def _stored_array(spec: DatasetSpec, root: Path, array_name: str) -> np.ndarray:
    path = root / spec.name / f"{array_name}.npy"
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        parts = np.array_split(array, len(spec.sha256[array_name]))
        wrong = [mismatch(spec, array_name, i, part) for i, part in enumerate(parts)]
        if not any(wrong):
            return array
        problem = next(filter(None, wrong))
    except (OSError, ValueError, EOFError) as error:
        problem = f"it cannot be read ({error})"
    raise DataError(
        f"the stored file {path} is damaged: {problem}: run `spire data fetch {spec.name}`"
    )


def _combined(*digests: str) -> str:
    return hashlib.sha256("".join(digests).encode()).hexdigest()


def describe(name: str | DatasetSpec, root: str | Path | None = None) -> dict[str, Any]:
    """The state of a fetched data set, for people and for JSON.

    Keys: name, path, present, ok (every array has its SHA-256), problem (one sentence or None),
    train and test (numbers of intact images), bytes (on disk).
    """
    spec, root = dataset_spec(name), store_root(root)
    files = sorted((root / spec.name).glob("*.npy"))
    counts, problem = dict.fromkeys(SPLITS, 0), None
    try:
        for split in SPLITS:
            counts[split] = len(load_stored(spec, root, split).images)
    except DataError as error:
        problem = str(error)
    return {
        "name": spec.name,
        "path": str(root / spec.name),
        "present": (root / spec.name).is_dir(),
        "ok": problem is None,
        "problem": problem,
        **counts,
        "bytes": sum(file.stat().st_size for file in files),
    }


def resized(images: np.ndarray, image_size: int | None) -> np.ndarray:
    """The images (N, C, H, H) uint8 as (N, C, S, S) uint8, where S is `image_size`.

    Images that have another size than S and are 28 wide are first padded with zeros to 32, which
    is also what None means. Where S divides their size, each pixel is the mean of a square
    (halves round up); otherwise the resizing is bilinear, with antialiasing where it shrinks.
    Raises ConfigError if S is below 1 and DataError if the images are not square.
    """
    num, channels, height, width = images.shape
    if height != width:
        raise DataError(f"expected square images, got {height} x {width}")
    size = image_size if image_size is not None else (32 if width == 28 else width)
    if size < 1:
        raise ConfigError(f"expected data.image_size of at least 1, got {size}")
    if size == width:
        return images
    out = np.empty((num, channels, size, size), dtype=np.uint8)
    step = max(1, _CHUNK_VALUES // (channels * max(size, width) ** 2))
    for start in range(0, num, step):
        chunk = images[start : start + step]
        if width == 28:
            chunk = np.pad(chunk, ((0, 0), (0, 0), (2, 2), (2, 2)))
        out[start : start + step] = _resize_chunk(chunk, size)
    return out


def _resize_chunk(images: np.ndarray, size: int) -> np.ndarray:
    num, channels, _, width = images.shape
    if width % size == 0:
        factor = width // size
        squares = images.reshape(num, channels, size, factor, size, factor)
        return (squares.sum(axis=(3, 5), dtype=np.uint32) + factor**2 // 2) // factor**2
    x = torch.from_numpy(np.array(images)).float()
    x = F.interpolate(x, (size, size), mode="bilinear", antialias=size < width)
    return x.round().clamp(0, 255).to(torch.uint8).numpy()


def load_folder(path: str | Path, split: str, image_size: int) -> ImageData:
    """The images below `path`, one subfolder per class, as RGB of (image_size, image_size).

    Subfolders `train` and `test` are the two splits. Without them a fifth of each class is the
    test split (at least one image where a class has two): those whose hashed names come first,
    so the split is the same everywhere. Raises DataError for a missing folder, no classes, an
    empty split, or a file that is no image.
    """
    base = Path(path).expanduser().resolve()
    if (base / "train").is_dir() and (base / "test").is_dir():
        classes, samples = _image_files(base / split)
        if classes != _image_files(base / "train")[0]:
            raise DataError(f"expected the same class folders in {base}/train and {base}/test")
    else:
        classes, samples = _image_files(base)
        samples = _own_split(base, samples, split)
    if not samples:
        raise DataError(f"expected images for the {split} split in {base}, got none: add some")
    images = np.stack([_decode(file, image_size) for file, _ in samples])
    labels = np.array([label for _, label in samples], dtype=np.int64)
    sha256 = _combined(sha256_of(images), sha256_of(labels))
    return ImageData("folder", images, labels, tuple(classes), sha256, split)


def _image_files(folder: Path) -> tuple[list[str], list[tuple[Path, int]]]:
    """Class names, and the files with their class numbers."""
    from torchvision.datasets import ImageFolder  # takes seconds to import

    try:
        found = ImageFolder(str(folder))
    except OSError as error:
        reason = " ".join(str(error).split())
        raise DataError(
            f"expected a folder with one subfolder of images per class, got {folder}: {reason}"
        ) from error
    return found.classes, [(Path(file), label) for file, label in found.samples]


def _own_split(base: Path, samples: list[tuple[Path, int]], split: str) -> list[tuple[Path, int]]:
    """The files that belong to `split`, in a folder that has no splits of its own."""

    def hashed_name(sample: tuple[Path, int]) -> bytes:
        return hashlib.sha256(sample[0].relative_to(base).as_posix().encode()).digest()

    chosen = []
    for _, of_class in itertools.groupby(samples, key=lambda sample: sample[1]):
        own = sorted(of_class, key=hashed_name)
        num_test = min(len(own) - 1, math.ceil(len(own) / 5))
        chosen += sorted(own[:num_test] if split == "test" else own[num_test:])
    return chosen


def _decode(file: Path, size: int) -> np.ndarray:
    """The image as (3, size, size) uint8: its central square, as RGB."""
    try:
        with Image.open(file) as image:
            if image.mode[0] in "IF":
                raise DataError(f"expected an image of 8 bits per channel, got {file}")
            rgb = ImageOps.exif_transpose(image).convert("RGB")
            square = ImageOps.fit(rgb, (size, size), Image.Resampling.BILINEAR)
    except (OSError, Image.DecompressionBombError) as error:
        raise DataError(f"expected an image, got {file} ({error}): remove or mend it") from error
    return np.asarray(square).transpose(2, 0, 1)
