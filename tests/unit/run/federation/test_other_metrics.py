"""A metric of another package is called once before a run, and refused if it returns no number."""

from pathlib import Path

import pytest
import torch

from pipeline.config.load import load_config
from pipeline.federation.other_metrics import NUM_TRIED, check_metrics
from pipeline.federation.setup import prepare
from spire_core.config.eval import OTHER_METRICS
from spire_core.errors import DataError

SHAPE = (1, 8, 8)


@pytest.fixture(autouse=True)
def nothing_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OTHER_METRICS, "_found", {})


def test_a_metric_without_a_number_is_refused_before_the_run(mnist_root: Path) -> None:
    OTHER_METRICS.register("odd", lambda drawn, real: None, "0")
    words = [f"data.root={mnist_root}", "eval.metrics=[odd]", "resources.pool=local"]
    with pytest.raises(DataError, match="a number from the metric odd, got TypeError"):
        prepare(load_config("smoke", words))


def test_a_metric_is_called_with_images_of_the_run_and_changes_no_random_numbers() -> None:
    seen = []

    def metric(drawn: torch.Tensor, real: torch.Tensor) -> float:
        seen.append((drawn.shape, real.shape))
        torch.rand(3)
        assert not torch.equal(drawn, real)
        assert -1 <= drawn.min() < -0.9 < 0.9 < drawn.max() <= 1
        return 0.5

    OTHER_METRICS.register("seen", metric, "0")
    before = torch.random.get_rng_state()
    check_metrics(("seen",), 16, SHAPE)
    check_metrics(("seen",), 1000, SHAPE)
    assert torch.equal(before, torch.random.get_rng_state())
    assert [pair[0] for pair in seen] == [(16, *SHAPE), (NUM_TRIED, *SHAPE)]
    assert all(drawn == real for drawn, real in seen)
