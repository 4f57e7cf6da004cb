"""MNIST is fetched for real, by whichever source works here."""

from pathlib import Path

import numpy as np
import pytest

from pipeline.config.data import DataConfig
from pipeline.data.datasets import load
from pipeline.data.fetch import fetch
from pipeline.data.resize import resized


@pytest.mark.slow
def test_mnist_is_the_real_one(tmp_path: Path) -> None:
    assert fetch("mnist", tmp_path) == tmp_path / "mnist.npz"
    config = DataConfig("mnist", root=str(tmp_path))
    train, test = load(config, "train"), load(config, "test")
    assert train.images.shape == (60000, 1, 28, 28)
    assert test.images.shape == (10000, 1, 28, 28)
    assert train.labels[:5].tolist() == [5, 0, 4, 1, 9]
    assert test.labels[:5].tolist() == [7, 2, 1, 0, 4]
    assert np.bincount(train.labels)[:3].tolist() == [5923, 6742, 5958]
    assert round(train.images.mean() / 255, 4) == 0.1307  # the mean that everyone normalizes with
    assert resized(test.images, 16).shape == (10000, 1, 16, 16)
