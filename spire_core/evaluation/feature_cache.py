"""A cache on disk for features of real images, keyed by a hash of all their inputs."""

import hashlib
import os
import uuid
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from spire_core.evaluation.extractors import Extractor


def cached_features(extractor: Extractor, images: Tensor, cache_dir: Path | None) -> Tensor:
    """Return `extractor.features(images)` (B, D), read from `cache_dir` if it is stored there.

    The file's name is a hash of the images' values and shape, the extractor and its weights, so
    that changed data or other weights never match old features. A damaged file is computed again.
    `cache_dir` None turns the cache off.
    """
    if cache_dir is None or extractor.num_features == 0:
        return extractor.features(images)
    path = cache_dir / f"{_cache_key(extractor, images)}.safetensors"
    features = _read_intact(path)
    if features is None:
        features = extractor.features(images)
        _write_atomically(features, path)
    return features


def _cache_key(extractor: Extractor, images: Tensor) -> str:
    values = images.detach().cpu().contiguous()
    head = f"{extractor.name} {extractor.weights_hash} {values.dtype} {tuple(values.shape)} "
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
    save_file({"features": features}, temporary, {"sha256": _sha256(features.numpy().tobytes())})
    os.replace(temporary, path)
