"""The classifiers behind the default KID extractors: one small trained CNN per data set.

Letters: B images, C channels, H x W pixels, D features, K classes.
`benchmarks/train_classifiers.py` trains them.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from spire_core.errors import WeightsError

WEIGHTS_DIR = Path(__file__).parents[1] / "weights"

IMAGE_SIZE = 32


@dataclass(frozen=True)
class ClassifierSizes:
    """Sizes of one classifier: channels at 16 x 16, 8 x 8 and 4 x 4 pixels, then D features."""

    in_channels: int
    widths: tuple[int, int, int]
    residual: bool
    num_features: int
    num_classes: int = 10


CLASSIFIERS = {
    "mnist": ClassifierSizes(1, (16, 32, 64), residual=False, num_features=64),
    "fashion_mnist": ClassifierSizes(1, (24, 48, 96), residual=True, num_features=64),
    "cifar10": ClassifierSizes(3, (48, 96, 192), residual=True, num_features=128),
    "fonts": ClassifierSizes(1, (24, 48, 96), residual=True, num_features=64, num_classes=62),
}


def to_network_size(images: Tensor) -> Tensor:
    """Return images of any size (B, C, H, W) in [-1, 1] at 32 x 32.

    28 x 28 images (MNIST) are padded with black (-1), so that strokes keep their scale. Every other
    size is resized bilinearly, with antialiasing if it shrinks.
    """
    if images.shape[-2:] == (28, 28):
        return F.pad(images, (2, 2, 2, 2), value=-1.0)
    if images.shape[-2:] == (IMAGE_SIZE, IMAGE_SIZE):
        return images
    size = (IMAGE_SIZE, IMAGE_SIZE)
    return F.interpolate(images, size, mode="bilinear", align_corners=False, antialias=True)


def _conv(in_channels: int, out_channels: int, kernel: int, stride: int) -> nn.Sequential:
    conv = nn.Conv2d(in_channels, out_channels, kernel, stride, padding=1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels), nn.ReLU())


class Residual(nn.Module):
    """x + conv(x) at constant width and size."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = _conv(width, width, kernel=3, stride=1)

    def forward(self, x: Tensor) -> Tensor:
        """Return a tensor of the shape of `x`, (B, width, H, W)."""
        return x + self.conv(x)


class Classifier(nn.Module):
    """A CNN that returns standardised features and class logits of images.

    The features are the penultimate activations, standardised over the training set to mean 0 and
    variance 1 in each dimension. This keeps KID's cubic kernel (x.y / D + 1)^3 of order one.
    """

    def __init__(self, name: str, sizes: ClassifierSizes, weights_hash: str = "untrained") -> None:
        super().__init__()
        self.name, self.sizes, self.weights_hash = name, sizes, weights_hash
        layers: list[nn.Module] = [_conv(sizes.in_channels, sizes.widths[0], kernel=4, stride=2)]
        previous = sizes.widths[0]
        for width in sizes.widths[1:]:
            layers += [Residual(previous)] if sizes.residual else []
            layers += [_conv(previous, width, kernel=3, stride=2)]
            previous = width
        layers += [Residual(previous)] if sizes.residual else []
        self.trunk = nn.Sequential(*layers)
        self.embed = nn.Linear(previous * (IMAGE_SIZE // 8) ** 2, sizes.num_features)
        self.standardise = nn.BatchNorm1d(sizes.num_features, affine=False)
        self.head = nn.Linear(sizes.num_features, sizes.num_classes)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return features (B, D) and logits (B, K) of images (B, C, H, W) in [-1, 1]."""
        x = to_network_size(images)  # (B, C, 32, 32)
        x = self.trunk(x)  # (B, widths[2], 4, 4)
        # Leaky: weight decay kills some plainly rectified features, which then have no variance.
        x = F.leaky_relu(self.embed(x.flatten(1)), 0.1)  # (B, D)
        features = self.standardise(x)  # (B, D)
        return features, self.head(features)  # (B, D), (B, K)


def load_classifier(name: str, path: Path | None = None) -> Classifier:
    """Return the trained classifier of a data set, float32, frozen and in inference mode.

    `name` is "mnist", "fashion_mnist", "cifar10" or "fonts"; `path` replaces the shipped weights.
    `weights_hash` of the result is the head of the file's SHA-256. Raises `WeightsError` if the
    file is missing, damaged, or of another network.
    """
    path = path or WEIGHTS_DIR / f"{name}.safetensors"
    try:
        weights_hash = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
        classifier = Classifier(name, CLASSIFIERS[name], weights_hash)
        state = {key: value.float() for key, value in load_file(path).items()}
        counts = {k: v for k, v in classifier.state_dict().items() if k.endswith("batches_tracked")}
        classifier.load_state_dict(state | counts)  # which only training reads
    except (OSError, SafetensorError, RuntimeError) as error:
        raise WeightsError(f"cannot load the {name} classifier from {path}: {error}") from error
    return classifier.eval().requires_grad_(False)
