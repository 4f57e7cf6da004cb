"""What the unit tests' runs share: features of real images, a third of a small run's work."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.clients import worker
from pipeline.clients.context import ModelContext
from pipeline.clients.evaluation import ClientEvaluator


@pytest.fixture(scope="session", autouse=True)
def _features_of_all_runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One cache for the runs of this process, in place of one in each root.

    Its keys are of the images and the extractor's weights (core/evaluation/test_extractors.py).
    """
    folder = tmp_path_factory.mktemp("features")

    def evaluator(context: ModelContext, extractor: str, _: Path) -> ClientEvaluator:
        return ClientEvaluator(context, extractor, folder)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(worker, "ClientEvaluator", evaluator)
        yield
