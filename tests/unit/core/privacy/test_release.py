"""Noisy sums: what one vector can change, what the noise is, and what an auditor can prove."""

import numpy as np
import pytest
import torch
from canaries import proven_epsilon
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kstest

from spire_core.config.privacy import SMALLEST_CLIP, PrivateAdaptConfig
from spire_core.privacy.guarantee import guarantee_of
from spire_core.privacy.noise import SecretNoise, key_of
from spire_core.privacy.release import GRID, BoundedSum

SIZE = 6
numbers = st.one_of(
    st.floats(width=32),  # also infinite ones, NaN and the smallest
    st.floats(-10, 10, width=32),
)
vectors = st.lists(st.lists(numbers, min_size=SIZE, max_size=SIZE), min_size=1, max_size=8)


def total(rows: torch.Tensor, clip_norm: float) -> torch.Tensor:
    """Return the sum that is released without noise."""
    own = BoundedSum(SIZE, clip_norm)
    own.add(rows)
    return own.release(0.0, np.zeros(SIZE))


@settings(max_examples=150, deadline=None)
@given(vectors, st.floats(SMALLEST_CLIP, 1e3), st.data())
def test_one_vector_changes_the_sum_by_at_most_the_clip_norm(
    rows: list[list[float]], clip_norm: float, data: st.DataObject
) -> None:
    whole = torch.tensor(rows)
    left_out = data.draw(st.integers(0, len(rows) - 1))
    rest = torch.cat([whole[:left_out], whole[left_out + 1 :]])
    change = total(whole, clip_norm) - total(rest, clip_norm)
    assert float(change.norm()) <= clip_norm * (1 + 1e-9)
    assert torch.isfinite(change).all()


@settings(max_examples=50, deadline=None)
@given(vectors, st.integers(1, 8))
def test_the_sum_is_the_same_in_any_order_and_grouping(rows: list[list[float]], cut: int) -> None:
    whole = torch.tensor(rows)
    pieces = BoundedSum(SIZE, 1.0)
    for piece in whole.flip(0).split(cut):
        pieces.add(piece)
    assert torch.equal(pieces.release(0.0, np.zeros(SIZE)), total(whole, 1.0))


def test_a_short_vector_is_kept_and_a_long_one_keeps_its_direction() -> None:
    short, long = torch.tensor([[0.3, -0.4]]), torch.tensor([[30.0, -40.0]])
    for row, expected in ((short, [0.3, -0.4]), (long, [1.2, -1.6])):
        own = BoundedSum(2, 2.0)
        own.add(row)
        found = own.release(0.0, np.zeros(2))
        assert found.tolist() == pytest.approx(expected, abs=2 * 2.0 / GRID)


def test_the_noise_has_the_deviation_that_is_accounted_for() -> None:
    own = BoundedSum(20_000, 0.5)
    noise = own.release(3.0, SecretNoise(key_of("k")).normals(20_000, "step", 0)).numpy()
    assert kstest(noise / 1.5, "norm").pvalue > 0.01
    steps = noise / (0.5 / GRID)
    assert np.array_equal(steps, np.rint(steps))  # all on the grid: no low bits


CANARIES, REPEATS, EPSILON = 200, 8, 1.0


def audited(repeat: int, clip_norm: float, has_noise: bool) -> float:
    """Return the epsilon that is proven in one run of many steps on canaries of length 10.

    Every canary takes part with probability 1/2. The auditor sees every noisy sum and adds them up.
    """
    settings = PrivateAdaptConfig(epsilon=EPSILON, delta=1e-5, steps=5)
    guarantee = guarantee_of(settings, CANARIES)
    assert guarantee is not None
    inside = np.random.default_rng(repeat).random(CANARIES) < 0.5
    gradients = 10.0 * torch.eye(CANARIES)[torch.from_numpy(inside)]
    noise, seen = SecretNoise(key_of(f"audit {repeat}")), torch.zeros(CANARIES).double()
    for step in range(guarantee.num_steps):
        own = BoundedSum(CANARIES, clip_norm)
        own.add(gradients)
        # The noise is that of the clip norm that is accounted for, 1.
        sigma = guarantee.noise_multiplier / clip_norm if has_noise else 0.0
        seen += own.release(sigma, noise.normals(CANARIES, "step", step))
    return proven_epsilon(seen.numpy(), inside, guarantee.delta)


def test_an_audit_proves_less_than_epsilon() -> None:
    assert max(audited(repeat, 1.0, True) for repeat in range(REPEATS)) < EPSILON


@pytest.mark.parametrize(("clip_norm", "has_noise"), [(1.0, False), (10.0, True)])
def test_an_audit_finds_missing_noise_and_a_missing_clip(clip_norm: float, has_noise: bool) -> None:
    """A clip norm that is ten times the one accounted for clips no canary."""
    found = [audited(repeat, clip_norm, has_noise) for repeat in range(REPEATS)]
    assert min(found) > EPSILON
