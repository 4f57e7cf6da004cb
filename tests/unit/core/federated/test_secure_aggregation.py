"""Masks cancel exactly in the sum of a whole cohort, and hide every vector in any other."""

import numpy as np
import pytest
import torch

from spire_core.errors import AggregationError
from spire_core.federated.secure_aggregation import masked, unmask_sum

COHORT = [3, 0, 11, 7]
STEP = 2.0**-32


def vectors(seed: int = 0, size: int = 5000) -> dict[int, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {i: torch.randn(size, generator=generator) for i in COHORT}


def all_masked(of_client: dict[int, torch.Tensor], seed: int = 5) -> list[np.ndarray]:
    return [masked(v, i, COHORT, seed) for i, v in of_client.items()]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_sum_is_exact_up_to_half_a_step_per_client(seed: int) -> None:
    of_client = vectors(seed)
    expected = torch.stack(list(of_client.values())).double().sum(dim=0)
    error = (unmask_sum(all_masked(of_client, seed)) - expected).abs().max()
    assert error <= len(COHORT) * STEP / 2


def test_numbers_on_the_grid_are_summed_without_any_error() -> None:
    of_client = {0: torch.tensor([0.5, -3.0, 2.0**-32]), 1: torch.tensor([0.25, 1.0, 2.0**-32])}
    parts = [masked(v.double(), i, [0, 1], 9) for i, v in of_client.items()]
    assert unmask_sum(parts).tolist() == [0.75, -2.0, 2.0**-31]


def test_two_clients_by_hand() -> None:
    up = masked(torch.zeros(4), 0, [0, 1], 9)
    down = masked(torch.ones(4), 1, [0, 1], 9)
    assert ((up + down) == np.uint64(2**32)).all()


def test_the_order_of_clients_and_of_the_cohort_changes_nothing() -> None:
    of_client = vectors()
    parts = all_masked(of_client)
    reordered = [masked(of_client[i], i, sorted(COHORT), 5) for i in reversed(of_client)]
    assert torch.equal(unmask_sum(parts), unmask_sum(reordered))


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("client_id", COHORT)
def test_a_masked_vector_is_uniform_and_unlike_its_input(seed: int, client_id: int) -> None:
    vector = torch.linspace(-1.0, 1.0, 20000)
    hidden = masked(vector, client_id, COHORT, seed) / 2.0**64
    counts = np.histogram(hidden, bins=20, range=(0, 1))[0]
    # Chi-squared with 19 degrees of freedom: above 60 with a probability of 4e-6.
    assert ((counts - 1000) ** 2 / 1000).sum() < 60
    assert abs(np.corrcoef(hidden, vector.numpy())[0, 1]) < 5 / np.sqrt(20000)


def test_equal_vectors_look_different_per_client_and_per_seed() -> None:
    vector = torch.zeros(100)
    views = [masked(vector, i, COHORT, seed) for i in COHORT for seed in (5, 6)]
    for i, one in enumerate(views):
        for other in views[i + 1 :]:
            assert (one != other).all()


@pytest.mark.parametrize("missing", range(len(COHORT)))
def test_without_a_member_the_sum_is_noise(missing: int) -> None:
    parts = all_masked(vectors())
    del parts[missing]
    assert unmask_sum(parts).abs().median() > 1e8


def test_a_cohort_must_hold_the_client_and_somebody_else() -> None:
    vector = torch.zeros(3)
    for cohort in ([1], [0, 2], [1, 1], [1, 1, 2]):
        with pytest.raises(AggregationError, match="two or more different clients with client 1"):
            masked(vector, 1, cohort, 0)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 2.0**30, -(2.0**30)])
def test_a_vector_that_the_sum_cannot_hold_is_refused(value: float) -> None:
    with pytest.raises(AggregationError, match="client 0's vector"):
        masked(torch.tensor([0.0, value]), 0, [0, 1], 0)
    assert masked(torch.tensor([2.0**29]), 0, [0, 1], 0).dtype == np.uint64


def test_parts_that_do_not_belong_together_are_refused() -> None:
    part = masked(torch.zeros(3), 0, [0, 1], 0)
    for parts in ([], [part, part[:2]], [part, part.astype(np.float64)]):
        with pytest.raises(AggregationError, match="uint64 vectors of one size"):
            unmask_sum(parts)
