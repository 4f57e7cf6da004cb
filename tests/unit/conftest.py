"""What the unit tests' runs share: real images and their features, most of a small run's work."""

import functools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from pipeline.clients import worker
from pipeline.clients.evaluation import ClientEvaluator
from pipeline.clients.rounds import RoundWorker
from pipeline.data import datasets
from pipeline.federation import setup

MANY_IMAGES = 10_000


@pytest.fixture(scope="session", autouse=True)
def _features_of_all_runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One cache for the runs of this process, in place of one in each root.

    Its keys are of the images and the extractor's weights (core/evaluation/test_extractors.py).
    """
    folder = tmp_path_factory.mktemp("features")

    def evaluator(own: RoundWorker, _: Path) -> ClientEvaluator:
        return ClientEvaluator(own, folder)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(worker, "ClientEvaluator", evaluator)
        yield


@pytest.fixture(scope="session", autouse=True)
def _images_of_all_runs() -> Iterator[None]:
    """A stored file is read and checked once, and its images are resized once."""
    read, resize = datasets._stored, setup.resized
    made: dict[tuple[int, int | None], tuple[np.ndarray, np.ndarray]] = {}

    @functools.lru_cache(8)
    def read_once(name: str, root: Path, keys: tuple[str, ...], _: int) -> list[np.ndarray]:
        return read(name, root, keys)

    def stored(name: str, root: Path, keys: Sequence[str]) -> list[np.ndarray]:
        file = datasets.stored_file(name, root)
        if not file.is_file():
            return read(name, root, keys)
        return [*read_once(name, root, tuple(keys), file.stat().st_mtime_ns)]

    def resized(images: np.ndarray, image_size: int | None) -> np.ndarray:
        if len(images) < MANY_IMAGES:
            return resize(images, image_size)
        key = id(images), image_size
        if key not in made:
            made[key] = images, resize(images, image_size)
        return made[key][1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets, "_stored", stored)
        patch.setattr(setup, "resized", resized)
        yield


@pytest.fixture(scope="session", autouse=True)
def _no_wait_for_the_disk() -> Iterator[None]:
    """No machine loses its power here; tests of what reaches the disk note these calls."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield
