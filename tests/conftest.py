"""What all tests share: one torch thread, real MNIST, and one new database of MLflow."""

import os
from pathlib import Path

import pytest
import torch

from pipeline.config.tracking import TrackingConfig
from pipeline.data.datasets import describe
from pipeline.data.fetch import fetch
from pipeline.tracking.tracker import check_store

torch.set_num_threads(1)


def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of this session, which processes that test side by side have in common."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(scope="session")
def mnist_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a store with real MNIST: $SPIRE_DATA if it is there, else fetched once.

    Processes that test side by side share it: whoever comes second waits for the first.
    """
    stored = describe("mnist")
    if stored["ok"]:
        return Path(stored["path"]).parent
    root = shared_folder(tmp_path_factory) / "spire_data"
    fetch("mnist", root)
    return root


@pytest.fixture(scope="session")
def new_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database of MLflow that holds no runs, to be copied: making one takes it seconds."""
    path = shared_folder(tmp_path_factory) / "new_database" / "mlflow.db"
    check_store(TrackingConfig(uri=f"sqlite:///{path}"))
    return path
