from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from spire_core.errors import WeightsError
from spire_core.evaluation.classifier import (
    CLASSIFIERS,
    WEIGHTS_DIR,
    load_classifier,
    to_network_size,
)

NAMES = list(CLASSIFIERS)


def pictures(name: str, num: int = 64, size: int = 32) -> torch.Tensor:
    """Return smooth random images in [-1, 1]."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(num, CLASSIFIERS[name].in_channels, 4, 4, generator=generator)
    return F.interpolate(coarse, (size, size), mode="bilinear").clamp(-1, 1)


@pytest.mark.parametrize("name", NAMES)
def test_shipped_weights_load_and_answer_alike(name: str) -> None:
    classifier = load_classifier(name)
    features, logits = classifier(pictures(name))
    assert features.shape == (64, CLASSIFIERS[name].num_features)
    assert logits.shape == (64, CLASSIFIERS[name].num_classes)
    assert features.isfinite().all()
    assert features.std(0).min() > 0.02
    # Inference mode: an image's features do not depend on the others of its batch.
    alone = classifier(pictures(name)[:1])[0]
    torch.testing.assert_close(alone, features[:1], rtol=1e-4, atol=1e-4)
    assert not any(p.requires_grad for p in classifier.parameters())


def test_28_pixels_are_padded_with_black_and_others_resized() -> None:
    images = pictures("mnist", size=28)
    padded = torch.full((64, 1, 32, 32), -1.0)
    padded[:, :, 2:30, 2:30] = images
    torch.testing.assert_close(to_network_size(images), padded, rtol=0, atol=0)
    small = pictures("mnist", size=16)
    expected = F.interpolate(small, scale_factor=2, mode="bilinear", align_corners=False)
    torch.testing.assert_close(to_network_size(small), expected)
    assert to_network_size(pictures("mnist", size=64)).shape == (64, 1, 32, 32)


def test_wrong_weights_are_refused(tmp_path: Path) -> None:
    (tmp_path / "cut").write_bytes((WEIGHTS_DIR / "mnist.safetensors").read_bytes()[:1000])
    for path in (tmp_path / "missing", tmp_path / "cut", WEIGHTS_DIR / "cifar10.safetensors"):
        with pytest.raises(WeightsError, match=str(path)):
            load_classifier("mnist", path)
