"""Precision and recall of several clients together."""

import numpy as np
import torch
from torch import Tensor

from spire_core.evaluation import precision_recall


def pooled_precision_recall(
    drawn: list[Tensor], real: list[Tensor], seed: int, images: list[np.ndarray] | None = None
) -> tuple[float, float] | None:
    """Of clients that share no image, unless the numbers of their images are given."""
    ends = np.cumsum([len(own) for own in real])
    apart = np.split(np.arange(ends[-1]), ends[:-1])
    return precision_recall.pooled_precision_recall(drawn, real, seed, images or apart)


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


def test_too_few_images_have_none() -> None:
    assert pooled_precision_recall([line(1, 2, 3)], [line(1, 2, 3)], 0) is None
    assert pooled_precision_recall([torch.zeros(9, 0)], [torch.zeros(9, 0)], 0) is None


def test_an_image_of_two_clients_counts_once() -> None:
    """Of real 0, 1, 2, 3 the ball of 3 reaches 5.5; twice each, it reaches 4."""
    real, drawn, same = [line(0, 1, 2, 3)] * 2, [line(5.5, 5.5)] * 2, [np.arange(4)] * 2
    assert pooled_precision_recall(drawn, real, 0, same) == (1.0, 0.0)
    own = [np.arange(4), np.arange(4, 8)]
    assert pooled_precision_recall(drawn, real, 0, own) == (0.0, 0.0)
