"""Feature extractors for KID, and a cache on disk for what is computed of real images.

Letters: B images, C channels, H x W pixels, D features.
"""

import hashlib
import os
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from spire_core.errors import DataError, WeightsError
from spire_core.evaluation.classifier import CLASSIFIERS, load_classifier

INCEPTION = "inception-v3-compat"
INCEPTION_FEATURES = 2048
CLASSIFIER_SUFFIX = "-cnn"
EXTRACTORS = (*(name + CLASSIFIER_SUFFIX for name in CLASSIFIERS), INCEPTION)
NO_EXTRACTOR = "none"  # features of no numbers, and so no KID
_BATCH_SIZE = {INCEPTION: 32}


@dataclass(frozen=True, eq=False)
class Extractor:
    """Maps images to the features that KID compares.

    Scores are comparable if `name` and `weights_hash` agree. `compute` maps a batch of float images
    (B, C, H, W) to features (B, D), and `classify`, if present, to logits (B, K). `max_channels`:
    of images; grey ones are repeated where the network takes colours.
    """

    name: str
    weights_hash: str
    num_features: int
    compute: Callable[[Tensor], Tensor] = field(repr=False)
    classify: Callable[[Tensor], Tensor] | None = field(default=None, repr=False)
    max_channels: int = 3

    def check_channels(self, num_channels: int) -> None:
        """Raise WeightsError for images of more channels than the network takes."""
        if num_channels > self.max_channels:
            raise WeightsError(
                f"expected an eval.extractor of colour images, got {self.name}: choose "
                "cifar10-cnn, inception-v3-compat or none, or for a folder data.channels=1"
            )

    def features(self, images: Tensor) -> Tensor:
        """Return features (B, D) float32, on the CPU, of images (B, C, H, W) in [-1, 1].

        Raises `DataError` for images that are not finite, as does `class_predictions`.
        """
        return self._in_batches(self.compute, images).float()

    def class_predictions(self, images: Tensor) -> Tensor | None:
        """Return the likeliest class (B,) int64 of each image (B, C, H, W) in [-1, 1].

        None if the network has no classes.
        """
        if self.classify is None:
            return None
        return self._in_batches(self.classify, images).argmax(1)

    @torch.inference_mode()
    def _in_batches(self, network: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
        if not torch.isfinite(images).all():
            raise DataError(
                f"the extractor {self.name} expected finite images, got NaN or infinity: training "
                "may have diverged, look at its loss"
            )
        batches = images.detach().cpu().float().split(_BATCH_SIZE.get(self.name, 256))
        return torch.cat([network(batch) for batch in batches])


def make_extractor(name: str, weights_path: str | Path | None = None) -> Extractor:
    """Return an extractor by its name, one of `EXTRACTORS` or `NO_EXTRACTOR`.

    `weights_path` replaces the shipped (classifiers) or downloaded (Inception) weights. Raises
    `WeightsError` if the name is unknown, or if the weights are missing or are not that network's.
    """
    path = None if weights_path is None else Path(weights_path)
    if name == NO_EXTRACTOR:
        return Extractor(name, name, 0, compute=lambda images: images.new_zeros(len(images), 0))
    if name == INCEPTION:
        return _inception_extractor(path)
    if name not in EXTRACTORS:
        known = ", ".join((*EXTRACTORS, NO_EXTRACTOR))
        raise WeightsError(f"expected an extractor among {known}, got {name!r}")
    classifier = load_classifier(name.removesuffix(CLASSIFIER_SUFFIX), path)
    channels = classifier.sizes.in_channels
    return Extractor(
        name,
        classifier.weights_hash,
        classifier.sizes.num_features,
        compute=lambda images: classifier(_coloured(images, channels))[0],
        classify=lambda images: classifier(_coloured(images, channels))[1],
        max_channels=channels,
    )


def auto_extractor(data_name: str, name: str = "auto") -> str:
    """Return `name`, where "auto" is the data set's classifier or, if it has none, Inception."""
    if name != "auto":
        return name
    return data_name + CLASSIFIER_SUFFIX if data_name in CLASSIFIERS else INCEPTION


def is_classifier_of(extractor: str, dataset: str) -> bool:
    """Return whether an extractor, given by its name, predicts the classes of this data set."""
    return extractor == dataset + CLASSIFIER_SUFFIX


def _inception_extractor(path: Path | None) -> Extractor:
    """Return torch-fidelity's InceptionV3: images (B, 3, H, W) uint8 -> (features (B, 2048),).

    Without a path, torch-fidelity takes the weights (91 MB) from torch's cache or downloads them.
    """
    from torch_fidelity.utils import create_feature_extractor

    try:
        if path is not None:
            torch.load(path, weights_only=True)  # torch-fidelity would unpickle any content
        network = create_feature_extractor(
            INCEPTION,
            [str(INCEPTION_FEATURES)],
            cuda=False,
            feature_extractor_weights_path=None if path is None else str(path),
            verbose=False,
        )
    except Exception as error:  # a wrong file can raise anything
        source = "be downloaded" if path is None else f"be loaded from {path}"
        raise WeightsError(
            f"the weights of {INCEPTION} cannot {source} ({type(error).__name__}): pass "
            "eval.extractor_weights=PATH, choose cifar10-cnn as "
            "eval.extractor, or none for scores without features"
        ) from error
    state = network.state_dict()
    weights = b"".join(state[key].numpy().tobytes() for key in sorted(state))
    return Extractor(
        INCEPTION,
        hashlib.sha256(weights).hexdigest()[:16],
        INCEPTION_FEATURES,
        compute=lambda images: network(to_uint8_rgb(images))[0],
    )


def _coloured(images: Tensor, channels: int) -> Tensor:
    """Return images (B, C, H, W), grey ones (C = 1) repeated to so many channels."""
    return images.expand(-1, channels, -1, -1) if images.shape[1] == 1 else images


def to_uint8_rgb(images: Tensor) -> Tensor:
    """Return images (B, C, H, W) in [-1, 1] as uint8 (B, 3, H, W), grey ones (C = 1) repeated."""
    as_bytes = ((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return as_bytes.expand(-1, 3, -1, -1).contiguous()


# --- cache ----------------------------------------------------------------------------------------


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
    computed, and with which weights: changed data or other weights never match an old file. A file
    that was cut off is computed again. `cache_dir` None turns the cache off.
    """
    if cache_dir is None:
        return compute(images)
    values = images.detach().cpu().contiguous()
    head = f"{name} {values.dtype} {tuple(values.shape)} "
    key = hashlib.sha256(head.encode() + values.numpy().tobytes()).hexdigest()
    path = cache_dir / f"{key}.safetensors"
    try:
        return load_file(path)["features"]
    except (OSError, SafetensorError):
        result = compute(images)
    # Several actors may write the same file: each writes its own copy, and the last rename wins.
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    cache_dir.mkdir(parents=True, exist_ok=True)
    temporary.write_bytes(save({"features": result.contiguous()}))
    os.replace(temporary, path)
    return result
