"""Noisy sums: what one vector can change, what the noise is, and what an auditor can prove."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, kstest

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


@settings(max_examples=300, deadline=None)
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


@settings(max_examples=100, deadline=None)
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


# --- an audit: canaries in the gradients ---

CANARIES, REPEATS, EPSILON = 200, 20, 1.0


def epsilon_lower(num_right: int, num_guesses: int, num_canaries: int, delta: float) -> float:
    """Return the epsilon that so many right guesses prove with 95 % confidence.

    Steinke, Nasr & Jagielski 2023, theorem 5.2: with (epsilon, delta)-differential privacy,
    P[right >= v] <= f(v) + 2 m delta max_i (f(v - i) - f(v)) / i, f the upper tail of Binomial(r,
    e^eps / (1 + e^eps)).
    """

    def p_value(epsilon: float) -> float:
        chance = 1 / (1 + math.exp(-epsilon))
        tail = binom.sf(num_right - 1 - np.arange(num_right + 1), num_guesses, chance)
        more = (tail[1:] - tail[0]) / np.arange(1, num_right + 1)
        return tail[0] + 2 * num_canaries * delta * max(0.0, more.max(initial=0.0))

    low, high = 0.0, 20.0
    if p_value(low) > 0.05:
        return 0.0
    while high - low > 1e-3:
        middle = (low + high) / 2
        low, high = (middle, high) if p_value(middle) < 0.05 else (low, middle)
    return low


def audited(repeat: int, clip_norm: float, has_noise: bool) -> float:
    """Return the epsilon that is proven in one run of many steps on canaries of length 10.

    Every canary has a direction of its own and takes part with probability 1/2. The auditor sees
    every noisy sum, adds them up, and says "in" of the highest and "out" of the lowest quarter.
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
    order, quarter = np.argsort(seen.numpy()), CANARIES // 4
    right = (~inside[order[:quarter]]).sum() + inside[order[-quarter:]].sum()
    return epsilon_lower(int(right), 2 * quarter, CANARIES, guarantee.delta)


def test_an_audit_proves_less_than_epsilon() -> None:
    assert max(audited(repeat, 1.0, True) for repeat in range(REPEATS)) < EPSILON


@pytest.mark.parametrize(("clip_norm", "has_noise"), [(1.0, False), (10.0, True)])
def test_an_audit_finds_missing_noise_and_a_missing_clip(clip_norm: float, has_noise: bool) -> None:
    """A clip norm that is ten times the one accounted for clips no canary."""
    found = [audited(repeat, clip_norm, has_noise) for repeat in range(REPEATS)]
    assert min(found) > EPSILON
