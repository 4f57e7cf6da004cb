"""Metrics that other packages bring: how one is called, and a call before anything is trained.

The entry point `spire.metrics` names a function `metric(drawn, real)` of float images in [-1, 1],
(n, C, H, W) drawn as the client and (m, C, H, W) that it holds out. It returns one number.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from spire_core.config.eval import OTHER_METRICS
from spire_core.errors import DataError

NUM_TRIED = 128  # images at most, each drawn and real


def score(name: str, drawn: Tensor, real: Tensor) -> float:
    """Return a metric of drawn and real images; DataError if it fails, or returns no number."""
    try:
        plugin = OTHER_METRICS.find(name)
        assert plugin is not None, "its package is not installed here"
        return float(plugin.value(drawn, real))
    except Exception as error:  # a stranger's code can raise anything
        raise DataError(
            f"expected a number from the metric {name}, got {type(error).__name__} ({error}): mend "
            "its function"
        ) from error


def check_metrics(names: Sequence[str], num_images: int, shape: tuple[int, int, int]) -> None:
    """Raise DataError for a metric that has no number for random images of this shape (C, H, W)."""
    if not names:
        return
    noise = torch.Generator().manual_seed(0)
    pair = torch.rand((2, min(num_images, NUM_TRIED), *shape), generator=noise) * 2 - 1
    with torch.random.fork_rng(devices=()):  # a metric may draw numbers itself
        for name in names:
            score(name, pair[0].clone(), pair[1].clone())
