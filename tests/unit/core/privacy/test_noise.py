"""Private noise is normal, follows from its key and counters alone, and its key goes nowhere."""

import pickle

import numpy as np
import pytest
from scipy.stats import kstest

from spire_core.config.privacy import PrivacyConfig
from spire_core.privacy.noise import (
    GRID,
    KEY_BYTES,
    LONGEST,
    SecretNoise,
    key_of,
    new_key,
    noise_steps,
)

KEY = key_of("a key")


def test_a_stream_is_a_function_of_key_purpose_and_counters() -> None:
    first = SecretNoise(KEY).normals(1000, "step", 3, 5)
    assert np.array_equal(first, SecretNoise(KEY).normals(1000, "step", 3, 5))
    others = [
        SecretNoise(key_of("another key")).normals(1000, "step", 3, 5),
        SecretNoise(KEY).normals(1000, "release", 3, 5),
        SecretNoise(KEY).normals(1000, "step", 5, 3),
        SecretNoise(KEY).normals(1000, "step", 35),
    ]
    for other in others:
        assert abs(np.corrcoef(first, other)[0, 1]) < 0.12
    by_chance = SecretNoise(new_key()).normals(1000, "step", 3, 5)
    assert abs(np.corrcoef(first, by_chance)[0, 1]) < 0.25  # eight standard deviations


def test_it_is_standard_normal_and_independent() -> None:
    normals = SecretNoise(KEY).normals(100_001, "step", 0)
    assert normals.shape == (100_001,)
    assert kstest(normals, "norm").pvalue > 0.01
    assert abs(np.corrcoef(normals[:50_000], normals[50_000:100_000])[0, 1]) < 0.02
    assert abs(np.corrcoef(normals[1:], normals[:-1])[0, 1]) < 0.02
    assert np.abs(normals).max() < 8.7


def test_noise_in_steps_of_the_grid_by_hand() -> None:
    """A clip norm has 2^24 steps, and each number is rounded to the nearest."""
    normals = np.array([1.0, -0.5, 0.7 / GRID, -1.2 / GRID])
    assert noise_steps(2.0, normals).tolist() == [2**25, -(2**24), 1, -2]
    assert noise_steps(np.array([1.0, 2.0, 0.5, 1.0]), normals).tolist() == [2**24, -(2**24), 0, -1]
    assert noise_steps(0.0, normals).dtype == np.int64
    assert GRID - 1 < LONGEST < GRID


@pytest.mark.parametrize("rate", [0.1, 0.5, 1.0])
def test_each_image_is_chosen_by_itself(rate: float) -> None:
    chosen = SecretNoise(KEY).chosen(20_000, rate, "sampling", 1, 2)
    assert chosen.mean() == pytest.approx(rate, abs=0.01)
    sizes = {int(SecretNoise(KEY).chosen(50, 0.5, "sampling", 1, s).sum()) for s in range(50)}
    assert len(sizes) > 5  # Poisson: not a fixed number


def test_a_key_is_neither_shown_nor_sent() -> None:
    noise = SecretNoise(KEY)
    assert repr(noise) == str(noise) == "SecretNoise(***)"
    with pytest.raises(TypeError, match="to stay in its process"):
        pickle.dumps(noise)
    with pytest.raises(ValueError, match="a key of 32 bytes"):
        SecretNoise(b"short")
    assert new_key() != new_key()
    assert len(new_key()) == len(KEY) == KEY_BYTES


def test_a_given_key_is_stored_as_a_label_that_stays() -> None:
    given = PrivacyConfig(noise_key="a key")
    label = given.labelled()
    assert label.labelled() == label != PrivacyConfig(noise_key="b key").labelled()
    assert "a key" not in repr(label)
    assert PrivacyConfig().labelled() == PrivacyConfig()
