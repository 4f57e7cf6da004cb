"""The part of `engine.py` that is about KID."""

import itertools
from typing import Any

import torch
from timing import Systems, alternately

from spire_core.evaluation.kid import kid, kid_matrix


def time_kid(repeats: int) -> dict[str, Any]:
    """20 subsets, beside torch-fidelity on the same features: one score, and a matrix of them."""
    from torch_fidelity.metric_kid import kid_features_to_metric

    def theirs(real: torch.Tensor, fake: torch.Tensor, size: int) -> None:
        more = {"kid_subsets": 20, "kid_subset_size": size, "rng_seed": 0, "verbose": False}
        kid_features_to_metric(real, fake, **more)

    real, fake = torch.randn(2, 1000, 64)
    sets = [torch.randn(200, 64) for _ in range(8)], [torch.randn(128, 64) for _ in range(8)]

    def matrix() -> None:
        for one, other in itertools.product(*sets):
            theirs(one, other, 128)

    one: Systems = {
        "torch-fidelity": (lambda: theirs(real, fake, 500), (), 1),
        "kid": (lambda: kid(real, fake, 500), (), 1),
    }
    many: Systems = {
        "torch-fidelity": (matrix, (), 64),
        "kid_matrix": (lambda: kid_matrix(sets[1], sets[0], 128), (), 64),
    }
    return {
        "KID of 1000 images": alternately(one, repeats),
        "KID of 8 x 8 clients, 200 and 128 images": alternately(many, min(3, repeats)),
    }
