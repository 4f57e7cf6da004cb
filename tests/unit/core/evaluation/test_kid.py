import numpy as np
import pytest
import torch
from torch import Tensor
from torch_fidelity.metric_kid import kid_features_to_metric

from spire_core.errors import DataError
from spire_core.evaluation.kid import KidScore, kernel_distance, kid, kid_floor, kid_matrix


def gaussian(num: int, seed: int, shift: float = 0.0, num_features: int = 16) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num, num_features, generator=generator) + shift


def mmd_numpy(x: np.ndarray, y: np.ndarray) -> float:
    """The unbiased MMD^2 estimate, kernel (x.y / D + 1)^3, written out pair by pair."""
    m, n = len(x), len(y)

    def kernel(a: np.ndarray, b: np.ndarray) -> float:
        return (float(a @ b) / len(a) + 1) ** 3

    within_x = sum(kernel(x[i], x[j]) for i in range(m) for j in range(m) if i != j)
    within_y = sum(kernel(y[i], y[j]) for i in range(n) for j in range(n) if i != j)
    across = sum(kernel(a, b) for a in x for b in y)
    return within_x / (m * (m - 1)) + within_y / (n * (n - 1)) - 2 * across / (m * n)


def test_distances_to_one_set_differ_as_kids_of_whole_sets_do() -> None:
    real = gaussian(5, 0)
    fakes = [gaussian(12, 1 + i, shift) for i, shift in enumerate((0.0, 0.4, -0.9))]
    known = [mmd_numpy(real.double().numpy(), fake.double().numpy()) for fake in fakes]
    found = [kernel_distance(real, fake) for fake in fakes]
    for k in (1, 2):
        assert found[k] - found[0] == pytest.approx(known[k] - known[0], rel=1e-9)


@pytest.mark.parametrize("shift", [0.0, 0.3])
def test_equals_the_formula_written_out(shift: float) -> None:
    real, fake = gaussian(40, 0), gaussian(40, 1, shift)
    score = kid(real, fake)
    expected = mmd_numpy(real.double().numpy(), fake.double().numpy())
    assert score.mean == pytest.approx(expected, abs=1e-6)
    assert score == KidScore(score.mean, 0.0, 40, 1, 40, 40)


@pytest.mark.parametrize(
    ("num_real", "num_fake", "size"),
    [(160, 128, 128), (64, 64, 64), (400, 700, 50), (900, 30, 20)],
)
def test_equals_torch_fidelity_where_subsets_share_much_and_little(
    num_real: int, num_fake: int, size: int
) -> None:
    real, fake = gaussian(num_real, 0, 0.5, 64), gaussian(num_fake, 1, 0.4, 64)
    rounds = 1 if num_real == num_fake == size else 4
    expected = kid_features_to_metric(
        real, fake, kid_subsets=rounds, kid_subset_size=size, rng_seed=5, verbose=False
    )
    score = kid(real, fake, subset_size=size, num_subsets=4, seed=5)
    assert score.mean == expected["kernel_inception_distance_mean"]
    assert score.std == expected["kernel_inception_distance_std"]


def test_floor_is_that_of_equal_distributions_and_reproducible() -> None:
    real = gaussian(200, 0)
    floor = kid_floor(real)
    assert floor == kid_floor(real)
    assert abs(floor.mean) < 3 * floor.std
    assert (floor.num_real, floor.num_fake, floor.subset_size) == (100, 100, 100)
    assert kid(real, gaussian(200, 1, 0.5)).mean > floor.mean + 5 * floor.std


def test_floor_over_as_many_images_as_a_score_has() -> None:
    real = gaussian(400, 0)
    few, many = kid_floor(real, max_images=20), kid_floor(real)
    assert (few.num_real, few.num_fake, few.subset_size, few.num_subsets) == (20, 20, 20, 1)
    assert few.std > 2 * many.std  # fewer images are noisier
    assert kid_floor(real, max_images=1000) == many


def test_floor_uses_disjoint_halves() -> None:
    # Four points far apart: a half compared with itself would give the same kernel sums twice.
    real = torch.eye(4) * 10
    across = (0 + 1) ** 3  # x.y = 0 for every pair of different points, within and across halves
    assert kid_floor(real).mean == pytest.approx(across + across - 2 * across, abs=1e-6)


def test_matrix_holds_every_pair() -> None:
    fakes, reals = [gaussian(30, 0), gaussian(30, 1, 0.5)], [gaussian(40, s) for s in (2, 3, 4)]
    matrix = kid_matrix(fakes, reals, subset_size=20, num_subsets=3, seed=1)
    assert matrix.shape == (2, 3)
    for i, fake in enumerate(fakes):
        for j, real in enumerate(reals):
            assert matrix[i, j] == kid(real, fake, 20, 3, 1).mean


def test_refuses_single_images() -> None:
    with pytest.raises(DataError, match="at least 2 images, got 1"):
        kid(gaussian(1, 0), gaussian(5, 1))
    with pytest.raises(DataError, match="at least 2 images, got 1"):
        kid_floor(gaussian(3, 0))
