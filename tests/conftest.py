"""What all tests share: one torch thread, and real MNIST."""

import os
from pathlib import Path

import pytest
import torch

from pipeline.datasets import describe
from pipeline.fetch import fetch

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def mnist_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a store with real MNIST: $SPIRE_DATA if it is there, else fetched once.

    Processes that test side by side share it: whoever comes second waits for the first.
    """
    stored = describe("mnist")
    if stored["ok"]:
        return Path(stored["path"]).parent
    is_one_of_many = "PYTEST_XDIST_WORKER" in os.environ
    base = tmp_path_factory.getbasetemp()
    root = (base.parent if is_one_of_many else base) / "spire_data"
    fetch("mnist", root)
    return root
