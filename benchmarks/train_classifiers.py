"""Trains the classifiers in whose features KID is computed; writes the weights, prints accuracies.

    python benchmarks/train_classifiers.py mnist fashion_mnist cifar10 fonts --data-root data

Half of every batch is averaged to 16 x 16 and resized back, so that the classifiers can also be
trusted on the 16 x 16 images that small diffusion models draw. Fonts have drawings at 16 x 16 of
their own, which stand beside those at 28 x 28 as further images. B images, C channels, H x W
pixels.
"""

import argparse
import hashlib
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from pipeline.config.data import DataConfig
from pipeline.data.datasets import load
from pipeline.data.glyphs import SIZES
from pipeline.data.resize import resized
from spire_core.evaluation.classifier import (
    CLASSIFIERS,
    WEIGHTS_DIR,
    Classifier,
    load_classifier,
    to_network_size,
)
from spire_core.rng import derive_seed

BATCH_SIZE = 256


@dataclass(frozen=True)
class Training:
    """How one classifier is trained: passes, peak learning rate, augmentation."""

    epochs: int
    lr: float
    max_shift: int
    flips: bool
    label_smoothing: float
    coarsens: bool = True  # half of every batch


TRAININGS = {
    "mnist": Training(8, 0.1, max_shift=2, flips=False, label_smoothing=0.0),
    "fashion_mnist": Training(12, 0.1, max_shift=2, flips=True, label_smoothing=0.0),
    "cifar10": Training(20, 0.1, max_shift=4, flips=True, label_smoothing=0.05),
    "fonts": Training(12, 0.1, max_shift=2, flips=False, label_smoothing=0.05, coarsens=False),
}


def load_split(name: str, root: Path, split: str) -> tuple[Tensor, Tensor]:
    """Return images (N, C, 32, 32) uint8 and labels (N,) int64."""
    data = load(DataConfig(name=name, root=str(root)), split)
    images = torch.from_numpy(resized(data.images, None).copy())
    return images, torch.from_numpy(data.labels.copy())


def load_drawings(root: Path, split: str, size: int) -> tuple[Tensor, Tensor]:
    """Return glyphs of one size as images (N, 1, 32, 32) uint8, and labels (N,) int64."""
    data = load(DataConfig(name="fonts", root=str(root), image_size=size), split)
    images = to_network_size(to_signed(torch.from_numpy(data.images.copy())))
    as_bytes = ((images + 1) * 127.5).round().to(torch.uint8)
    return as_bytes, torch.from_numpy(data.labels.copy())


def load_images(name: str, root: Path, split: str) -> tuple[Tensor, Tensor]:
    """Return the images of a split to train on, and their labels."""
    if name != "fonts":
        return load_split(name, root, split)
    drawings = [load_drawings(root, split, size) for size in SIZES]
    images, labels = (torch.cat(parts) for parts in zip(*drawings, strict=True))
    return images, labels


def to_signed(images: Tensor) -> Tensor:
    """Return uint8 images as floats in [-1, 1]."""
    return images.float() / 127.5 - 1


def coarse(images: Tensor) -> Tensor:
    """Return 32 x 32 images as a 16 x 16 model shows them to the network."""
    return to_network_size(F.avg_pool2d(images, 2))


def augment(images: Tensor, training: Training) -> Tensor:
    """Return images (B, C, H, W), each shifted, perhaps mirrored, the first half of them coarse."""
    num, _, height, width = images.shape
    shift = training.max_shift
    padded = F.pad(images, (shift,) * 4, mode="reflect")
    rows = torch.randint(2 * shift + 1, (num, 1, 1)) + torch.arange(height).view(1, -1, 1)
    cols = torch.randint(2 * shift + 1, (num, 1, 1)) + torch.arange(width).view(1, 1, -1)
    if training.flips:
        cols = torch.where(torch.rand(num, 1, 1) < 0.5, cols, cols.flip(-1))
    moved = padded.permute(0, 2, 3, 1)[torch.arange(num).view(-1, 1, 1), rows, cols]
    moved = moved.permute(0, 3, 1, 2)
    if not training.coarsens:
        return moved
    return torch.cat([coarse(moved[: num // 2]), moved[num // 2 :]])


def fit(classifier: Classifier, images: Tensor, labels: Tensor, training: Training) -> None:
    """Train by SGD with a one-cycle learning rate, in bfloat16 where autocast allows it."""
    steps_per_epoch = len(images) // BATCH_SIZE
    optimizer = torch.optim.SGD(
        classifier.parameters(), training.lr, momentum=0.9, nesterov=True, weight_decay=5e-4
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, training.lr, total_steps=training.epochs * steps_per_epoch, pct_start=0.25
    )
    for epoch in range(training.epochs):
        classifier.train()
        start, total = time.perf_counter(), 0.0
        for chosen in torch.randperm(len(images)).split(BATCH_SIZE)[:steps_per_epoch]:
            batch = augment(to_signed(images[chosen]), training)
            with torch.autocast("cpu", torch.bfloat16):
                logits = classifier(batch)[1]
            loss = F.cross_entropy(
                logits.float(), labels[chosen], label_smoothing=training.label_smoothing
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
        seconds = time.perf_counter() - start
        print(
            f"  epoch {epoch + 1}: loss {total / steps_per_epoch:.4f}, {seconds:.0f} s", flush=True
        )


@torch.inference_mode()
def standardise(classifier: Classifier, images: Tensor, coarsens: bool) -> None:
    """Set the feature statistics to those of the training images, at 32 x 32 and at 16 x 16 alike.

    The other layers' running statistics stay as they are: only features that the finished network
    sees count.
    """
    classifier.eval()
    kept: list[Tensor] = []
    hook = classifier.standardise.register_forward_pre_hook(lambda _, args: kept.append(args[0]))
    for batch in images.split(512):
        signed = to_signed(batch)
        classifier(torch.cat([signed, coarse(signed)]) if coarsens else signed)
    hook.remove()
    activations = torch.cat(kept).double()
    assert classifier.standardise.running_mean is not None
    assert classifier.standardise.running_var is not None
    classifier.standardise.running_mean.copy_(activations.mean(0))
    classifier.standardise.running_var.copy_(activations.var(0))


@torch.inference_mode()
def accuracy(classifier: Classifier, images: Tensor, labels: Tensor, is_coarse: bool) -> float:
    """Return the share of images that are classified correctly."""
    right = 0
    for batch, expected in zip(images.split(512), labels.split(512), strict=True):
        signed = to_signed(batch)
        logits = classifier(coarse(signed) if is_coarse else signed)[1]
        right += int((logits.argmax(1) == expected).sum())
    return right / len(images)


def accuracies(name: str, root: Path) -> dict[str, float]:
    """Return the shares of test images, at their own size and at 16 x 16, that are recognised."""
    classifier = load_classifier(name)
    if name == "fonts":
        small, large = (load_drawings(root, "test", size) for size in SIZES)
        shares = (accuracy(classifier, *images, is_coarse=False) for images in (large, small))
    else:
        images = load_split(name, root, "test")
        shares = (accuracy(classifier, *images, is_coarse=size) for size in (False, True))
    return dict(zip(("accuracy_native", "accuracy_16px"), shares, strict=True))


def save_classifier(classifier: Classifier, path: Path) -> None:
    """Write the weights: matrices and kernels as float16, biases and statistics as float32."""
    state = {k: v for k, v in classifier.state_dict().items() if not k.endswith("batches_tracked")}
    half = {k: v.half() if v.ndim > 1 else v.float() for k, v in state.items()}
    save_file({k: v.contiguous() for k, v in half.items()}, path)


def train(name: str, root: Path) -> None:
    """Train one classifier, write its weights, and print their hash and accuracies."""
    torch.manual_seed(derive_seed(0, f"classifier-{name}"))
    training = TRAININGS[name]
    images, labels = load_images(name, root, "train")
    classifier = Classifier(name, CLASSIFIERS[name]).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    fit(classifier, images, labels, training)
    path = WEIGHTS_DIR / f"{name}.safetensors"
    save_classifier(classifier, path)
    classifier = load_classifier(name)  # weights rounded to float16, as they are shipped
    standardise(classifier, images, training.coarsens)
    save_classifier(classifier, path)
    print(name, hashlib.sha256(path.read_bytes()).hexdigest(), accuracies(name, root), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("names", nargs="*", default=list(CLASSIFIERS), choices=list(CLASSIFIERS))
    parser.add_argument("--data-root", type=Path, default=Path("data"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    for name in args.names:
        train(name, args.data_root)


if __name__ == "__main__":
    main()
