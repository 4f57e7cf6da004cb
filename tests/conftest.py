"""What all tests share: one torch thread, and real MNIST."""

from pathlib import Path

import pytest
import torch

from pipeline.datasets import describe
from pipeline.fetch import fetch

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def mnist_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a store with real MNIST: $SPIRE_DATA if it is there, else fetched once."""
    stored = describe("mnist")
    if stored["ok"]:
        return Path(stored["path"]).parent
    root = tmp_path_factory.mktemp("spire_data")
    fetch("mnist", root)
    return root
