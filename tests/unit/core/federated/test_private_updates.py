"""Private rounds: what one client can change, what the noise is, and what an auditor can prove."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, kstest
from threadpoolctl import threadpool_limits

from spire_core.config.privacy import SMALLEST_CLIP, PrivateRoundsConfig
from spire_core.federated.messages import Broadcast, ClientUpdate, UpdateFault
from spire_core.federated.private_updates import ClippedFormat
from spire_core.federated.update_checks import l2_norm
from spire_core.privacy.noise import GRID, SecretNoise, key_of
from spire_core.privacy.rounds import PrivateRound, RoundsGuarantee, rounds_guarantee

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
    found = form.encode(update(weights))
    assert isinstance(found, np.ndarray)
    return found


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
    assert all(isinstance(row, np.ndarray) for row in rows)
    mean = form.decode(np.sum(rows, axis=0, dtype=np.uint64))
    assert mean.weights.tolist() == pytest.approx([1.75, -0.75], abs=1e-6)
    assert (mean.loss, mean.moments, mean.share_within) == (None, None, None)
    nobody = form.decode(np.zeros(2, np.uint64))
    assert nobody.weights.tolist() == before.tolist()


def test_a_long_change_keeps_its_direction_and_one_that_is_not_finite_counts_as_zero() -> None:
    form = form_for(np.zeros(2), PrivateRound(2.0, 1.0, 3.0, 2.0))
    long = encoded(form, np.array([30.0, -40.0])).view(np.int64)
    assert (long[:2] * 2.0 / GRID).tolist() == pytest.approx([1.2, -1.6], abs=1e-6)
    assert long[2] == -GRID // 2  # it was not within the clip norm
    assert encoded(form, np.array([0.3, 0.4])).view(np.int64)[2] == GRID // 2
    lost = encoded(form, np.array([np.nan, 1.0])).view(np.int64)
    assert lost.tolist() == [0, 0, -GRID // 2]
    assert isinstance(form.encode(update(np.zeros(3))), UpdateFault)


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


# --- what is promised ---


def promise(cohort_size: int = 1000, **words: object) -> RoundsGuarantee:
    found = rounds_guarantee(PrivateRoundsConfig(epsilon=2.0, **words), 1000, cohort_size, 20)  # type: ignore[arg-type]
    assert found is not None
    return found


def test_a_promise_follows_from_its_settings() -> None:
    found = promise()
    assert found.delta == pytest.approx(1000**-1.1)
    assert (found.sampling_rate, promise(cohort_size=500).sampling_rate) == (1.0, 0.5)
    assert found.spent(0) == 0.0
    spent = [found.spent(t) for t in (1, 10, 20)]
    assert spent == sorted(spent)
    assert 1.9 < spent[-1] <= 2.0
    assert (found.source, found.is_scaled) == ("secret", False)
    assert found.round(0.3) == PrivateRound(0.3, found.noise_multiplier, None, 1000)


def test_noise_of_a_larger_cohort_is_scaled_and_labelled() -> None:
    plain, found = promise(), promise(cohort_size=40, noise_cohort=1000)
    assert found.sampling_rate == plain.sampling_rate
    assert found.spent(20) == plain.spent(20)
    assert found.round(0.3).sum_noise == pytest.approx(0.04 * found.noise_multiplier)
    assert found.round(0.3).expected == 40  # the noise in the mean is that of 1000 clients
    assert (found.source, found.as_texts()["privacy.noise_cohort"]) == ("simulated", "1000")
    assert found.as_texts()["dp"] == "simulated"
    assert "privacy.noise_cohort" not in plain.as_texts()


def test_adaptive_clipping_pays_for_its_count() -> None:
    found = promise(clip_quantile=0.5)
    z, one = found.noise_multiplier, found.round(1.0)
    assert one.count_noise == 50
    assert one.sum_noise**-2 + (2 * one.count_noise) ** -2 == pytest.approx(z**-2)
    assert found.next_clip(1.0, 0.5) == 1.0
    assert found.next_clip(1.0, 1.0) == pytest.approx(math.exp(-0.1))
    assert found.next_clip(1.0, 0.0) == pytest.approx(math.exp(0.1))
    assert promise().next_clip(1.0, None) == 1.0
    clip_norm = 0.5
    for _ in range(10_000):  # of clients whose weights never move
        clip_norm = found.next_clip(clip_norm, 1.0)
    assert clip_norm == SMALLEST_CLIP


def test_adaptive_clipping_finds_the_quantile() -> None:
    """Without noise the clip norm goes to the median of the clients' norms."""
    norms = np.linspace(0.1, 2.1, 41)
    found, clip_norm = promise(clip_quantile=0.5), 0.01
    for _ in range(150):
        clip_norm = found.next_clip(clip_norm, float((norms <= clip_norm).mean()))
    assert clip_norm == pytest.approx(1.1, abs=0.06)


# --- an audit: canaries among the clients ---

CANARIES, REPEATS, EPSILON = 200, 20, 1.0


def epsilon_lower(num_right: int, num_guesses: int, num_canaries: int, delta: float) -> float:
    """Return the epsilon that so many right guesses prove with 95 % confidence.

    Steinke, Nasr & Jagielski 2023, theorem 5.2, as in `tests/unit/core/privacy/test_release.py`.
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
    for round_idx in range(found.num_rounds):
        total = np.sum([*changes, form.noise(key, round_idx)], axis=0, dtype=np.uint64)
        seen += form.decode(total).weights
    order, quarter = np.argsort(seen), CANARIES // 4
    right = (~inside[order[:quarter]]).sum() + inside[order[-quarter:]].sum()
    return epsilon_lower(int(right), 2 * quarter, CANARIES, found.delta)


def test_an_audit_proves_less_than_epsilon() -> None:
    assert max(audited(repeat, 1.0, True) for repeat in range(REPEATS)) < EPSILON


@pytest.mark.parametrize(("clip_norm", "has_noise"), [(1.0, False), (10.0, True)])
def test_an_audit_finds_missing_noise_and_a_missing_clip(clip_norm: float, has_noise: bool) -> None:
    """A clip norm that is ten times the one accounted for clips no canary."""
    found = [audited(repeat, clip_norm, has_noise) for repeat in range(REPEATS)]
    assert min(found) > EPSILON


def test_a_length_does_not_depend_on_the_number_of_threads() -> None:
    """A process without actors may have as many as cores, and an actor has one."""
    changes = np.random.default_rng(0).normal(size=(20, 76_401))
    found = []
    for num_threads in (1, 2):
        with threadpool_limits(num_threads, "blas"):
            found.append([l2_norm(change) for change in changes])
    assert found[0] == found[1]
    np.testing.assert_allclose(found[0], np.linalg.norm(changes, axis=1), rtol=1e-13)
