"""A cache on disk for what is computed of real images, keyed by a hash of all its inputs."""

import hashlib
import logging
import os
import uuid
from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from spire_core.evaluation.extractors import Extractor

logger = logging.getLogger(__name__)


def cached_features(extractor: Extractor, images: Tensor, cache_dir: Path | None) -> Tensor:
    """Return `extractor.features(images)` (B, D), read from `cache_dir` if it is stored there."""
    if extractor.num_features == 0:
        return extractor.features(images)
    name = f"{extractor.name} {extractor.weights_hash}"
    return cached(extractor.features, name, images, cache_dir)


def cached(
    compute: Callable[[Tensor], Tensor], name: str, images: Tensor, cache_dir: Path | None
) -> Tensor:
    """Return `compute(images)` on the CPU, read from `cache_dir` if it is stored there.

    The file's name is a hash of the images' values and shape and of `name`, which tells what is
    computed, and with which weights: changed data or other weights never match an old file. A
    damaged file is computed again, and a disk that takes no file costs no result. `cache_dir` None
    turns the cache off.
    """
    if cache_dir is None:
        return compute(images)
    path = cache_dir / f"{_cache_key(name, images)}.safetensors"
    result = _read_intact(path)
    if result is None:
        result = compute(images)
        try:
            _write_atomically(result, path)
        except (OSError, SafetensorError) as error:
            logger.warning("cannot keep features of real images in %s: %s", cache_dir, error)
    return result


def _cache_key(name: str, images: Tensor) -> str:
    values = images.detach().cpu().contiguous()
    head = f"{name} {values.dtype} {tuple(values.shape)} "
    return _sha256(head.encode() + values.numpy().tobytes())


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _read_intact(path: Path) -> Tensor | None:
    try:
        with safe_open(path, "pt") as file:
            features, metadata = file.get_tensor("features"), file.metadata() or {}
    except (OSError, SafetensorError):
        return None
    return features if metadata.get("sha256") == _sha256(features.numpy().tobytes()) else None


def _write_atomically(features: Tensor, path: Path) -> None:
    # Several actors may write the same file: each writes its own copy, and the last rename wins.
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    features = features.contiguous()
    sha256 = _sha256(features.numpy().tobytes())
    try:
        save_file({"features": features}, temporary, {"sha256": sha256})
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
