"""A new client's steps by hand: the rate of each, the mean of the last, the rows of a batch."""

import math

import pytest
import torch

from spire_core.adaptation.adapt import Descent
from spire_core.config.adapt import AdaptConfig
from spire_core.diffusion.process import sample_timesteps
from spire_core.rng import torch_generator
from spire_core.training.batches import Batch
from spire_core.training.context import ClientContext

ROOT = 0.5**0.5  # the cosine of an eighth of a turn


def positions(**settings) -> list[tuple[float, float]]:
    """Where four steps of a rate of 0.1 lead, as iterate and as what is scored after each.

    Under a constant gradient, Adam moves a number by its rate in every step.
    """
    leaf = torch.nn.Parameter(torch.zeros(1))
    config = AdaptConfig(epochs=2, batch_size=3, **settings)
    client = ClientContext(0, 0, torch.zeros(6, 1, 1, 1))
    descent, seen = Descent({"part": leaf}, 0.1, config, client), []
    for _ in range(4):  # two of each epoch
        leaf.grad = -torch.ones(1)
        descent.step()
        with descent.averaged():
            scored = float(leaf.detach())
        seen.append((float(leaf.detach()), scored))
    return seen


@pytest.mark.parametrize(
    ("schedule", "scales"),
    [("constant", [1, 1, 1, 1]), ("cosine", [1, (1 + ROOT) / 2, 0.5, (1 - ROOT) / 2])],
)
def test_the_rate_of_each_step(schedule: str, scales: list[float]) -> None:
    expected = [0.1 * math.fsum(scales[: i + 1]) for i in range(4)]
    assert [at for at, _ in positions(schedule=schedule)] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("share", "scored"),
    [
        (0.0, [0.1, 0.2, 0.3, 0.4]),
        (0.01, [0.1, 0.2, 0.3, 0.4]),  # the last step alone
        (0.5, [0.1, 0.2, 0.3, 0.35]),
        (1.0, [0.1, 0.15, 0.2, 0.25]),
    ],
)
def test_the_mean_of_the_last_steps_is_scored_and_the_iterate_goes_on(
    share: float, scored: list[float]
) -> None:
    found = positions(average=share)
    assert [at for at, _ in found] == pytest.approx([0.1, 0.2, 0.3, 0.4], rel=1e-5)
    assert [mean for _, mean in found] == pytest.approx(scored, rel=1e-5)


def test_the_draws_of_each_image_are_spread_over_all_timesteps() -> None:
    batch = Batch(torch.arange(3.0)[:, None, None, None], torch.arange(3)[:, None])
    rows = batch.repeated(4)
    assert rows.images.flatten().tolist() == [0.0, 1.0, 2.0] * 4
    assert rows.tokens is not None
    assert rows.tokens.flatten().tolist() == [0, 1, 2] * 4
    t = sample_timesteps(12, 1000, 1.0, torch_generator(0, "t")).view(4, 3)
    assert (t // 250 == torch.arange(4)[:, None]).all()
    assert batch.repeated(1) is batch
