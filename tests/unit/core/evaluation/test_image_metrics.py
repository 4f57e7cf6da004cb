import numpy as np
import pytest
import torch

from spire_core.evaluation.extractors import Extractor
from spire_core.evaluation.image_metrics import (
    nearest_neighbour_distance,
    total_variation,
)
from spire_core.evaluation.selftest import metric_selftest


def test_total_variation_by_hand() -> None:
    p, q = np.array([0.5, 0.5, 0.0]), np.array([0.25, 0.25, 0.5])
    assert total_variation(p, q) == 0.5
    assert total_variation(p, p) == 0
    assert total_variation(np.array([1.0, 0.0]), np.array([0.0, 1.0])) == 1
    assert total_variation(np.stack([p, q]), q) == 0.25  # the mean of two draws: 0.5 and 0


def test_nearest_neighbour_equals_all_pairs_across_chunks() -> None:
    generator = torch.Generator().manual_seed(0)
    samples = torch.rand(20, 3, 4, 4, generator=generator) * 2 - 1
    references = torch.rand(2500, 3, 4, 4, generator=generator) * 2 - 1
    exact = torch.cdist(samples.flatten(1).double(), references.flatten(1).double()).amin(1)
    found = nearest_neighbour_distance(samples, references)
    assert found == pytest.approx(float(exact.mean()), abs=1e-9)
    assert nearest_neighbour_distance(references[2000:2020], references) < 1e-6


def stripes(num: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return images of two classes: a bright left or a bright right half, with some noise."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(num) % 2
    images = torch.full((num, 1, 4, 4), -1.0)
    images[labels == 0, :, :, :2] = 1
    images[labels == 1, :, :, 2:] = 1
    return (images + 0.3 * torch.randn(images.shape, generator=generator)).clamp(-1, 1), labels


def sides(images: torch.Tensor) -> torch.Tensor:
    """Return logits (B, 2): the brightness of either half."""
    return torch.stack([images[..., :2].sum((1, 2, 3)), images[..., 2:].sum((1, 2, 3))], dim=1)


def test_selftest_passes_on_features_that_see_and_fails_on_blind_ones() -> None:
    images, labels = stripes(200)
    seeing = Extractor("pixels", "-", 16, lambda x: x.flatten(1), sides)
    found = metric_selftest(seeing, images, labels)
    assert found["ok"] is True
    assert found["accuracy"] == 1.0
    blind = Extractor("blind", "-", 16, lambda x: torch.ones(len(x), 16))
    found = metric_selftest(blind, images, labels)
    assert found["ok"] is False
    assert found["noise_ok"] is False
    assert found["accuracy"] is None
