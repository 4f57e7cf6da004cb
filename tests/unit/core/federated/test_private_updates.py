"""Private rounds: what one client can change, what the noise is, and what an auditor can prove."""

from dataclasses import replace

import numpy as np
import pytest
from canaries import proven_epsilon
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kstest

from spire_core.config.privacy import SMALLEST_CLIP, PrivateRoundsConfig
from spire_core.federated.messages import Broadcast, ClientUpdate
from spire_core.federated.private_updates import ClippedFormat
from spire_core.federated.sums import HiddenSum, MeanUpdate
from spire_core.privacy.guarantee import PrivateRound, rounds_guarantee
from spire_core.privacy.noise import GRID, SecretNoise, key_of

SIZE = 6
numbers = st.one_of(
    st.floats(width=32),  # also infinite ones, NaN and the smallest
    st.floats(-10, 10, width=32),
)
vectors = st.lists(numbers, min_size=SIZE, max_size=SIZE)
clips = st.floats(SMALLEST_CLIP, 1e3)


def update(weights: np.ndarray, client_id: int = 0, num_examples: int = 100) -> ClientUpdate:
    return ClientUpdate(client_id, num_examples, 1, 0.5, weights.astype(np.float32))


def form_for(before: np.ndarray, private: PrivateRound) -> ClippedFormat:
    return ClippedFormat(Broadcast(before.astype(np.float32)), before.size, private)


def encoded(form: ClippedFormat, weights: np.ndarray) -> np.ndarray:
    return form.encode(update(weights))


def mean_of(form: ClippedFormat, rows: list[np.ndarray]) -> MeanUpdate:
    total = HiddenSum(form.size)
    for client_id, row in enumerate(rows):
        total.add(client_id, 1, row)
    return form.decode(total)


def summed(form: ClippedFormat, rows: list[np.ndarray]) -> np.ndarray:
    """Return the released sum (SIZE,), without noise, in units of the weights."""
    total = np.sum([np.zeros(form.size, np.uint64), *rows], axis=0, dtype=np.uint64)
    private = form.private
    return total.view(np.int64)[:SIZE] * (private.clip_norm / GRID)


@settings(max_examples=100, deadline=None)
@given(st.lists(vectors, min_size=1, max_size=6), vectors, vectors, clips, st.data())
def test_one_client_changes_the_released_sum_by_at_most_the_clip_norm(
    rows: list, other: list, before: list, clip_norm: float, data: st.DataObject
) -> None:
    """Left out or added: C. Replaced by any other client: 2 C."""
    start = np.nan_to_num(np.array(before, np.float32), posinf=1, neginf=-1)
    start = np.clip(start, -1e6, 1e6)
    form = form_for(start, PrivateRound(clip_norm, 1.0, None, 3.0))
    whole = [encoded(form, np.array(row)) for row in rows]
    at = data.draw(st.integers(0, len(rows) - 1))
    rest = whole[:at] + whole[at + 1 :]
    changed = [*rest, encoded(form, np.array(other))]
    bound = clip_norm * (1 + 1e-9)
    assert np.linalg.norm(summed(form, whole) - summed(form, rest)) <= bound
    assert np.linalg.norm(summed(form, whole) - summed(form, changed)) <= 2 * bound


def test_the_mean_is_over_the_expected_cohort_and_all_clients_count_the_same() -> None:
    before = np.array([1.0, -2.0])
    form = form_for(before, PrivateRound(5.0, 1.0, None, 4.0))
    rows = [
        form.encode(update(before + d, num_examples=n)) for d, n in (([3, 4], 1), ([0, 1], 999))
    ]
    mean = mean_of(form, rows)
    assert mean.weights.tolist() == pytest.approx([1.75, -0.75], abs=1e-6)
    assert (mean.loss, mean.moments, mean.share_within) == (None, None, None)
    nobody = mean_of(form, [])
    assert nobody.weights.tolist() == before.tolist()


def test_a_long_change_keeps_its_direction_and_one_that_is_not_finite_counts_as_zero() -> None:
    form = form_for(np.zeros(2), PrivateRound(2.0, 1.0, 3.0, 2.0))
    long = encoded(form, np.array([30.0, -40.0])).view(np.int64)
    assert (long[:2] * 2.0 / GRID).tolist() == pytest.approx([1.2, -1.6], abs=1e-6)
    assert long[2] == -GRID // 2  # it was not within the clip norm
    assert encoded(form, np.array([0.3, 0.4])).view(np.int64)[2] == GRID // 2
    lost = encoded(form, np.array([np.nan, 1.0])).view(np.int64)
    assert lost.tolist() == [0, 0, -GRID // 2]


def test_noise_has_the_accounted_deviation_and_is_the_same_when_it_is_asked_again() -> None:
    form = form_for(np.zeros(20_000), PrivateRound(0.5, 3.0, 7.0, 10.0))
    key = SecretNoise(key_of("k"))
    noise = form.noise(key, 4)
    np.testing.assert_array_equal(noise, form.noise(SecretNoise(key_of("k")), 4))
    assert (noise != form.noise(key, 5)).mean() > 0.99
    assert (noise != form.noise(SecretNoise(key_of("l")), 4)).mean() > 0.99
    assert kstest(noise.view(np.int64)[:-1] / (3.0 * GRID), "norm").pvalue > 0.01
    counts = [form.noise(key, r).view(np.int64)[-1] / GRID for r in range(200)]
    assert kstest(np.array(counts) / 7.0, "norm").pvalue > 0.01


CANARIES, REPEATS, EPSILON = 200, 20, 1.0


def audited(repeat: int, clip_norm: float, has_noise: bool) -> float:
    """Return the epsilon that is proven in a run of five rounds with all clients.

    Every client is a canary: its change has a direction of its own, length 10, and it is in the
    federation with probability 1/2. The auditor sees every released model.
    """
    found = rounds_guarantee(
        PrivateRoundsConfig(epsilon=EPSILON, delta=1e-5, clip_norm=1.0), CANARIES, CANARIES, 5
    )
    assert found is not None
    inside = np.random.default_rng(repeat).random(CANARIES) < 0.5
    # The noise is that of the clip norm that is accounted for, 1.
    private = replace(found.round(1.0), clip_norm=clip_norm)
    private = replace(private, sum_noise=private.sum_noise / clip_norm if has_noise else 0.0)
    form, key = form_for(np.zeros(CANARIES), private), SecretNoise(key_of(f"audit {repeat}"))
    changes = [encoded(form, 10.0 * np.eye(CANARIES)[c]) for c in np.flatnonzero(inside)]
    seen = np.zeros(CANARIES)
    for round_idx in range(found.num_steps):
        seen += mean_of(form, [*changes, form.noise(key, round_idx)]).weights
    return proven_epsilon(seen, inside, found.delta)


def test_an_audit_proves_less_than_epsilon() -> None:
    assert max(audited(repeat, 1.0, True) for repeat in range(REPEATS)) < EPSILON


@pytest.mark.parametrize(("clip_norm", "has_noise"), [(1.0, False), (10.0, True)])
def test_an_audit_finds_missing_noise_and_a_missing_clip(clip_norm: float, has_noise: bool) -> None:
    """A clip norm that is ten times the one accounted for clips no canary."""
    found = [audited(repeat, clip_norm, has_noise) for repeat in range(REPEATS)]
    assert min(found) > EPSILON
