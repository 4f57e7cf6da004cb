"""Precision and recall of several clients together."""

import numpy as np
import pytest
import torch
from torch import Tensor

from spire_core.evaluation import precision_recall as module


def pooled_precision_recall(
    drawn: list[Tensor], real: list[Tensor], seed: int, images: list[np.ndarray] | None = None
) -> tuple[float, float] | None:
    """Of clients that share no image, unless the numbers of their images are given."""
    ends = np.cumsum([len(own) for own in real])
    apart = np.split(np.arange(ends[-1]), ends[:-1])
    return module.pooled_precision_recall(drawn, real, seed, images or apart)


def line(*values: float) -> Tensor:
    return torch.tensor(values).reshape(-1, 1)


def test_by_hand() -> None:
    """Of real 0, 1, 2, 3 the balls reach 3, 2, 2 and 3 around; of drawn 5.5, 6.5, 20, 21 at least
    14.5 around."""
    drawn, real = line(5.5, 6.5, 20, 21), line(0, 1, 2, 3)
    assert pooled_precision_recall([drawn], [real], 0) == (0.25, 1.0)  # 5.5 alone is near 3
    assert pooled_precision_recall([real], [drawn], 0) == (1.0, 0.25)


def test_clients_count_together_with_equally_many_of_each() -> None:
    """One by one each client is drawn as the other; together all is drawn."""
    one, other = torch.rand(60, 2), torch.rand(60, 2) + 100
    assert pooled_precision_recall([one, other], [other, one], 0) == pooled_precision_recall(
        [other, one], [other, one], 0
    )
    alone = pooled_precision_recall([one], [other], 0)
    assert alone == (0.0, 0.0)
    # Many drawn images of the client that has few real ones do not outweigh the other.
    many = pooled_precision_recall([torch.rand(5000, 2), other], [one[:5], other], 3)
    assert many is not None
    assert many[1] > 0.9


def test_more_clients_than_images_keep_to_the_cap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_IMAGES", 40)
    sizes = []

    def count(generated: Tensor, real: Tensor) -> tuple[float, float]:
        sizes.append((len(generated), len(real)))
        return float(generated.unique().numel()), 0.0

    monkeypatch.setattr(module, "_precision_recall", count)
    clients = [line(i, i) for i in range(100)]
    assert pooled_precision_recall(clients, clients, 0) == (40.0, 0.0)
    assert pooled_precision_recall(clients[:40], clients[:40], 0) == (40.0, 0.0)
    assert sizes == [(40, 40), (40, 40)]


def test_too_few_images_have_none() -> None:
    assert pooled_precision_recall([line(1, 2, 3)], [line(1, 2, 3)], 0) is None
    assert pooled_precision_recall([torch.zeros(9, 0)], [torch.zeros(9, 0)], 0) is None


def test_an_image_of_two_clients_counts_once() -> None:
    """Of real 0, 1, 2, 3 the ball of 3 reaches 5.5; twice each, it reaches 4."""
    real, drawn, same = [line(0, 1, 2, 3)] * 2, [line(5.5, 5.5)] * 2, [np.arange(4)] * 2
    assert pooled_precision_recall(drawn, real, 0, same) == (1.0, 0.0)
    own = [np.arange(4), np.arange(4, 8)]
    assert pooled_precision_recall(drawn, real, 0, own) == (0.0, 0.0)


def test_true_images_score_alike_whether_clients_share_their_reference() -> None:
    noise = torch.Generator().manual_seed(0)
    drawn = [torch.randn(512, 8, generator=noise) for _ in range(6)]
    everything = torch.randn(1000, 8, generator=noise)
    order = [np.random.default_rng(i).permutation(1000) for i in range(6)]
    shared = pooled_precision_recall(drawn, [everything[own] for own in order], 0, order)
    others = [torch.randn(1000, 8, generator=noise) for _ in range(6)]
    apart = pooled_precision_recall(drawn, others, 0)
    assert shared is not None
    assert shared == pytest.approx(apart, abs=0.05)
