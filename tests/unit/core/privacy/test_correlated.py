"""Correlated noise: matrices written out, sensitivity by trying all patterns, who is drawn when."""

import itertools
import math

import dp_accounting
import numpy as np
import pytest

from spire_core.config.privacy import PrivateRoundsConfig
from spire_core.errors import ConfigError
from spire_core.federated.messages import Broadcast
from spire_core.federated.participation import cyclic_cohort
from spire_core.federated.private_updates import ClippedFormat
from spire_core.privacy.correlated import CyclicRounds, cyclic_rounds
from spire_core.privacy.noise import GRID, SecretNoise, key_of
from spire_core.privacy.rounds import RoundsGuarantee, rounds_guarantee


def matrices(rounds: CyclicRounds, num_rounds: int) -> tuple[np.ndarray, np.ndarray]:
    """Return C^-1, from its bands, and its inverse C, both (num_rounds, num_rounds)."""
    inverse = np.zeros((num_rounds, num_rounds))
    for i, weight in enumerate(rounds.weights[:num_rounds]):
        inverse += weight * np.eye(num_rounds, k=-i)
    return inverse, np.linalg.inv(inverse)


def test_bands_are_those_of_the_square_root() -> None:
    """The product of two series of (1 - x)^(1/2) is 1 - x; all bands give binom(2 t, t) / 4^t."""
    weights = CyclicRounds(12, 100, 10).weights
    np.testing.assert_allclose(np.convolve(weights, weights)[:12], [1, -1, *[0] * 10], atol=1e-15)
    _, whole = matrices(CyclicRounds(12, 100, 10), 12)
    expected = [math.comb(2 * t, t) / 4**t for t in range(12)]
    np.testing.assert_allclose(whole[:, 0], expected, rtol=1e-12)
    assert CyclicRounds(1, 100, 10).weights == (1.0,)


@pytest.mark.parametrize("bands", [1, 2, 3, 5, 9])
@pytest.mark.parametrize(("num_clients", "stride"), [(9, 1), (9, 2), (9, 3), (7, 4), (5, 5)])
def test_no_pattern_changes_more_than_the_sensitivity(
    bands: int, num_clients: int, stride: int
) -> None:
    """Over every pattern of rounds of one client that are far enough apart, with equal changes."""
    rounds, num_rounds = CyclicRounds(bands, num_clients, stride), 9
    _, strategy = matrices(rounds, num_rounds)
    gap, most = rounds.separation, rounds.num_taken(num_rounds)
    assert (strategy >= -1e-12).all()
    patterns = [
        taken
        for size in range(1, most + 1)
        for taken in itertools.combinations(range(num_rounds), size)
        if all(b - a >= gap for a, b in itertools.pairwise(taken))
    ]
    changes = [np.linalg.norm(strategy[:, list(taken)].sum(1)) for taken in patterns]
    assert rounds.sensitivity(num_rounds) == pytest.approx(max(changes), rel=1e-12)


@pytest.mark.parametrize(
    ("num_clients", "cohort_size", "stride"), [(10, 3, 3), (12, 4, 4), (7, 7, 7), (11, 2, 5)]
)
def test_clients_wait_for_their_turn(num_clients: int, cohort_size: int, stride: int) -> None:
    rounds, num_rounds = CyclicRounds(4, num_clients, stride), 40
    taken = {client_id: list[int]() for client_id in range(num_clients)}
    for round_idx in range(num_rounds):
        cohort = cyclic_cohort(num_clients, cohort_size, 3, round_idx, stride)
        assert len(set(cohort)) == cohort_size
        for client_id in cohort:
            taken[client_id].append(round_idx)
    gaps = [b - a for own in taken.values() for a, b in itertools.pairwise(own)]
    assert min(gaps) >= rounds.separation
    counts = [len(own) for own in taken.values()]
    assert max(counts) <= rounds.num_taken(num_rounds)
    if cohort_size == stride:
        assert max(counts) - min(counts) <= 1
    other = [cyclic_cohort(num_clients, cohort_size, 4, r, stride) for r in range(3)]
    same = [cyclic_cohort(num_clients, cohort_size, 3, r, stride) for r in range(3)]
    assert (other == same) == (cohort_size == num_clients)


def form_of(rounds: RoundsGuarantee, size: int) -> ClippedFormat:
    return ClippedFormat(Broadcast(np.zeros(size, np.float32)), size, rounds.round(1.0))


def promise(num_rounds: int = 30, **words: object) -> RoundsGuarantee:
    """Sixty clients, of whom ten take part in each round."""
    settings = PrivateRoundsConfig(**{"epsilon": 2.0, "mechanism": "dp_ftrl"} | words)
    found = rounds_guarantee(settings, 60, 10, num_rounds)
    assert found is not None
    return found


def test_the_noise_of_rounds_is_independent_noise_behind_the_inverse() -> None:
    """C times what is added in all rounds gives back the key's normals, times z."""
    found, key = promise(), SecretNoise(key_of("k"))
    assert found.cyclic is not None
    assert found.cyclic.bands > 1
    form, num_rounds = form_of(found, 5), found.num_rounds
    added = np.stack([form.noise(key, r).view(np.int64) for r in range(num_rounds)]) / GRID
    _, strategy = matrices(found.cyclic, num_rounds)
    normals = np.stack([key.normals(5, "round", r) for r in range(num_rounds)])
    expected = found.noise_multiplier * normals
    np.testing.assert_allclose(strategy @ added, expected, atol=1e-5)
    again = form_of(found, 5).noise(SecretNoise(key_of("k")), 17)  # after a resume
    np.testing.assert_array_equal(again.view(np.int64) / GRID, added[17])


def test_what_rounds_take_back_is_the_noise_that_they_had_added() -> None:
    """Local layers leave the shared stretch in the middle of a run; the other numbers go on."""
    found, key, weights = promise(), SecretNoise(key_of("k")), Broadcast(np.zeros(7, np.float32))
    assert found.cyclic is not None
    sizes = [7] * 10 + [4] * (found.num_rounds - 10)
    forms = [ClippedFormat(weights, size, found.round(1.0)) for size in sizes]
    added = [form.noise(key, r).view(np.int64)[:4] / GRID for r, form in enumerate(forms)]
    _, strategy = matrices(found.cyclic, found.num_rounds)
    normals = np.stack([key.normals(7, "round", r)[:4] for r in range(found.num_rounds)])
    np.testing.assert_allclose(strategy @ added, found.noise_multiplier * normals, atol=1e-5)
    one = ClippedFormat(weights, 4, promise(num_rounds=1).round(1.0))  # it takes back nothing
    own = promise(num_rounds=1).noise_multiplier * key.normals(4, "round", 0)
    np.testing.assert_allclose(one.noise(key, 0).view(np.int64) / GRID, own, atol=1e-6)


def test_epsilon_is_that_of_one_gaussian() -> None:
    found = promise()
    assert found.cyclic is not None
    for num_rounds in (1, 6, 7, 30):
        sigma = found.noise_multiplier / found.cyclic.sensitivity(num_rounds)
        expected = dp_accounting.get_epsilon_gaussian(sigma, found.delta)
        assert found.spent(num_rounds) == pytest.approx(expected, rel=1e-3)
    assert found.spent(30) == pytest.approx(2.0, rel=1e-6)
    assert found.spent(31) > 2.0
    assert found.as_texts()["privacy.mechanism"] == "dp_ftrl"
    with pytest.raises(ConfigError, match=r"^expected at most \d+ federation.num_rounds, which"):
        promise(noise_multiplier=0.9 * found.noise_multiplier)


def test_correlation_lowers_the_noise_of_sums() -> None:
    """Against independent noise of the same budget, which is one band."""
    for num_rounds in (12, 120, 1200):
        chosen = cyclic_rounds(60, 10, num_rounds)
        independent = CyclicRounds(1, 60, 10)
        assert chosen.bands > 1
        assert chosen.error(num_rounds) < 0.8 * independent.error(num_rounds)
    inverse, strategy = matrices(chosen := cyclic_rounds(60, 10, 12), 12)
    sums = np.tril(np.ones((12, 12))) @ inverse
    by_hand = np.linalg.norm(sums) / math.sqrt(12) * np.linalg.norm(strategy[:, [0, 6]].sum(1))
    assert chosen.error(12) == pytest.approx(by_hand)
    assert cyclic_rounds(60, 10, 1).bands == 1
