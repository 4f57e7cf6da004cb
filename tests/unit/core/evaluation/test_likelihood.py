"""FLD: by hand, beside its source, and on real digits that were copied or not."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from spire_core.evaluation import likelihood
from spire_core.evaluation.likelihood import HIGHEST, fitted_log_variances, fld


def normal(num: int, seed: int, num_features: int = 4) -> Tensor:
    return torch.randn(num, num_features, generator=torch.Generator().manual_seed(seed)).double()


def test_the_likelihood_is_that_of_the_mixture_by_hand() -> None:
    """Gaussians of variance 1 and 4 around 0 and 3, in one dimension, at 1."""
    centres, log_var = torch.tensor([[0.0], [3.0]]).double(), torch.tensor([0.0, math.log(4)])
    first = math.exp(-0.5) / math.sqrt(2 * math.pi)
    second = math.exp(-4 / 8) / math.sqrt(2 * math.pi * 4)
    found = likelihood._nll(centres, log_var.double(), torch.tensor([[1.0]]).double())
    assert float(found) == pytest.approx(-math.log((first + second) / 2))


def test_a_feature_that_is_constant_does_not_count() -> None:
    """Nor does the scale of one."""
    sets = [normal(40, 0), normal(20, 1), normal(25, 2)]
    plain = fld(*sets)
    more = [torch.cat([1000 * x[:, :1], x[:, 1:], torch.ones(len(x), 2)], 1) for x in sets]
    assert fld(*more) == pytest.approx(plain, rel=1e-6)
    same = torch.ones(5, 3)
    assert fld(torch.rand(6, 3), same, same) == 0.0


def test_it_is_the_sources_algorithm() -> None:
    """A number of a transcription of its code (marcojira/fld at ffbbf20) in float64, which scales
    features as we do.
    """
    generator = torch.Generator().manual_seed(0)
    centres, train, unseen = (
        torch.randn(num, 6, generator=generator).double() for num in (40, 20, 25)
    )
    centres, train, unseen = likelihood._scaled(centres, train, unseen)
    log_var = fitted_log_variances(centres, train)
    gap = likelihood._nll(centres, log_var, train) - likelihood._nll(centres, log_var, unseen)
    assert float(100 * gap) == pytest.approx(-10.396203457787689, rel=1e-6)


def test_it_has_an_end() -> None:
    """Narrow Gaussians around exact copies make a far image as unlikely as can be."""
    x = normal(4, 0)
    assert fld(x, x, torch.cat([x, x[:1] + 30])) == HIGHEST


@pytest.fixture(scope="module")
def digits(mnist_root: Path) -> Tensor:
    """Real digits at 4 x 4 pixels as features."""
    images = np.load(mnist_root / "mnist.npz")["test_images"][:1500]
    return F.avg_pool2d(torch.from_numpy(images).float().reshape(-1, 1, 28, 28), 7).flatten(1)


def test_copies_come_last_and_fresh_images_first(digits: Tensor) -> None:
    """Less the score of as many fresh images, over clients with 32 images to learn from."""
    excess: dict[str, list[float]] = {}
    for seed in range(12):
        order = torch.randperm(len(digits), generator=torch.Generator().manual_seed(seed))
        train, unseen, control, fresh = digits[order[:384]].split((32, 160, 96, 96))
        base = fld(control, train, unseen)
        drawn = {"fresh": fresh, "copies": train.repeat(3, 1)}
        drawn["tenth"] = torch.cat([fresh[:86], train[:10]])
        drawn["blurred"] = fresh + 40 * normal(96, seed, 16).float()
        for name, images in drawn.items():
            excess.setdefault(name, []).append(fld(images, train, unseen) - base)
    means = {name: float(np.mean(values)) for name, values in excess.items()}
    error = float(np.std(excess["fresh"])) / math.sqrt(12)
    assert abs(means["fresh"]) < 3.5 * error
    assert means["fresh"] < means["tenth"] < means["copies"]
    assert means["fresh"] < means["blurred"] < means["copies"]
