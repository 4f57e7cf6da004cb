"""What a client sends in fewer bytes: by hand, against bounds, and nothing is lost for good."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from spire_core.config.client import ClientConfig
from spire_core.federated.compression import BLOCK, lossy, sent
from spire_core.federated.messages import AdamMoments, Broadcast, ClientUpdate

SIZE = 600  # two blocks and a part of one
FORMS = ("bf16", "int8", "top_k")
FRACTION = 0.05


def numbers(seed: int, size: int = SIZE) -> Tensor:
    """Numbers of very different sizes, some of them zero."""
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.exp(3 * torch.randn(size, generator=generator))
    drawn = torch.randn(size, generator=generator) * sizes * 1e-3
    drawn[:: 7 + seed] = 0.0
    return drawn


def config_for(form: str) -> ClientConfig:
    return ClientConfig(compression=form, top_k_fraction=FRACTION)


def update_of(weights: Tensor, **moments: Any) -> ClientUpdate:
    return ClientUpdate(3, 10, 1, 0.5, weights.numpy(), **moments)


@pytest.mark.parametrize("seed", range(4))
def test_what_arrives_is_close_to_what_was_sent(seed: int) -> None:
    array = numbers(seed)
    error = {form: (sent(array, form, FRACTION)[0] - array).abs() for form in FORMS}
    assert (error["bf16"] <= 2**-8 * array.abs()).all()
    for block, missed in zip(array.split(BLOCK), error["int8"].split(BLOCK), strict=True):
        assert missed.max() <= block.abs().max() / 127 / 2 * (1 + 1e-6)
    exact = error["top_k"] == 0
    kept = array.abs()[exact & (array != 0)]
    assert len(kept) == 30
    assert kept.min() >= array.abs()[~exact].max()


def test_int8_by_hand() -> None:
    """A block whose largest number is 254 has scale 2: 254, 5, -7, 0.9 become 127, 2, -4, 0."""
    arrived, num_bytes = sent(torch.tensor([254.0, 5.0, -7.0, 0.9]), "int8")
    assert arrived.tolist() == [254.0, 4.0, -8.0, 0.0]
    assert num_bytes == 4 + 4


def test_top_k_takes_the_first_of_equal_numbers() -> None:
    """Two of five: 3 is the largest, and of the three with size 2 the first comes along."""
    array = torch.tensor([1.0, -2.0, 2.0, 3.0, 2.0])
    assert sent(array, "top_k", 0.4)[0].tolist() == [0.0, -2.0, 0.0, 3.0, 0.0]
    assert torch.equal(sent(array, "top_k", 1.0)[0], array)
    assert sent(torch.zeros(5), "top_k", 0.2)[0].tolist() == [0.0] * 5


@pytest.mark.parametrize(
    ("form", "num_bytes"),
    [
        ("none", 600 * 4),
        ("bf16", 600 * 2),
        ("int8", 600 + 3 * 4),  # three blocks
        ("top_k", 30 * (4 + 4)),
    ],
)
def test_bytes_by_hand(form: str, num_bytes: int) -> None:
    before, after = Broadcast(numbers(0).numpy()), numbers(1)
    assert lossy(update_of(after), before, None, config_for(form))[0].num_bytes == num_bytes
    moments = AdamMoments(after.numpy(), after.square().numpy(), np.zeros(4, np.float32))
    full, _ = lossy(update_of(after, moments=moments), before, None, config_for(form))
    assert full.num_bytes == num_bytes + 2 * 600 * (4 if form == "none" else 2) + 4 * 4


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("seed", range(3))
def test_what_is_not_sent_is_kept_for_the_next_round(form: str, seed: int) -> None:
    """What arrives and the residual together are the change and what was kept before."""
    config, residual, received = config_for(form), None, torch.zeros(SIZE).double()
    changes = torch.zeros(SIZE).double()
    for round_idx in range(5):
        before = numbers(10 * seed + round_idx)
        after = before + numbers(100 + 10 * seed + round_idx)
        got, kept = lossy(update_of(after), Broadcast(before.numpy()), residual, config)
        owed = (after - before) + (torch.zeros(SIZE) if residual is None else residual)
        arrived, _ = sent(owed, form, FRACTION)
        assert torch.equal(torch.from_numpy(got.weights), before + arrived)
        if form == "bf16":
            assert kept is None
        else:
            assert kept is not None
            assert torch.equal(arrived.double() + kept.double(), owed.double())
        received, changes = received + arrived, changes + (after - before)
        residual = kept
    if residual is not None:  # over all rounds nothing is missing but what is still owed
        torch.testing.assert_close(received + residual, changes, rtol=1e-5, atol=1e-6)
        assert residual.abs().max() > 0


def test_moments_stay_what_adam_can_use() -> None:
    """Rounded to bfloat16, also beside top_k: non-negative, and m^2 <= c v keeps its c."""
    second = numbers(1).square()
    first = (second.sqrt() * 0.99).numpy()
    moments = AdamMoments(first, second.numpy(), np.ones(4, np.float32))
    full, before = update_of(numbers(0), moments=moments), Broadcast(numbers(2).numpy())
    got = lossy(full, before, None, config_for("top_k"))[0].moments
    assert got is not None
    np.testing.assert_array_less(got.exp_avg**2, got.exp_avg_sq * 1.02 + 1e-38)
    assert (got.exp_avg_sq[second.numpy() > 0] > 0).all()
    np.testing.assert_array_equal(got.steps, moments.steps)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_one_number_that_is_not_finite_arrives_as_such(form: str, bad: float) -> None:
    after = numbers(1)
    after[SIZE // 2] = bad
    got, _ = lossy(update_of(after), Broadcast(numbers(0).numpy()), None, config_for(form))
    assert not np.isfinite(got.weights).all()
