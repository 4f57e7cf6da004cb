"""Promises to new clients and to the clients of a run: their noise, their price, their refusals."""

import math

import dp_accounting
import numpy as np
import pytest
from dp_accounting import pld

from spire_core.config.privacy import SMALLEST_CLIP, PrivateAdaptConfig, PrivateRoundsConfig
from spire_core.errors import BudgetError, ConfigError
from spire_core.privacy.accounting import noise_for
from spire_core.privacy.guarantee import (
    RoundsGuarantee,
    guarantee_of,
    rounds_guarantee,
)


def test_a_guarantee_names_what_it_rests_on() -> None:
    found = guarantee_of(PrivateAdaptConfig(epsilon=4.0), 64)
    assert found is not None
    assert (found.delta, found.num_steps, found.sampling_rate) == (1 / 640, 40, 1.0)
    assert (found.batch, found.source, found.mechanism) == (64, "secret", "dp_sgd")
    assert found.epsilon == 4.0, "that of every client of one budget"
    assert found.noise_multiplier == noise_for(4.0, 1 / 640, 40, 1.0)
    one = guarantee_of(PrivateAdaptConfig(epsilon=4.0, mechanism="one_release"), 1000, True)
    assert one is not None
    assert (one.num_steps, one.sampling_rate, one.source) == (1, 1.0, "simulated")
    many = guarantee_of(PrivateAdaptConfig(epsilon=1.0, batch_size=100), 400)
    assert many is not None
    assert (many.sampling_rate, many.batch) == (0.25, 100)
    assert many.noise_multiplier < noise_for(1.0, 1 / 4000, 40, 1.0)
    assert guarantee_of(PrivateAdaptConfig(), 64) is None
    assert rounds_guarantee(PrivateRoundsConfig(), 5, 5, 9) is None


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ({"epsilon": 4.0, "delta": 1 / 64}, r"privacy\.adapt\.delta below 1/64, got"),
        ({"delta": 1e-15, "steps": 100, "batch_size": 10}, "a delta of at least 1e-10 where"),
    ],
)
def test_what_cannot_be_promised_to_a_new_client_is_refused(words: dict, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        guarantee_of(PrivateAdaptConfig(**{"epsilon": 2.0, **words}), 64)


@pytest.mark.parametrize(
    ("words", "num_clients", "told"),
    [
        ({"delta": 1 / 500}, 500, r"privacy\.rounds\.delta below 1/500, got"),
        ({"epsilon": 0.01, "clip_quantile": 0.5}, 500, "a noise multiplier below 50 with"),
        ({}, 1, r"federation\.num_clients of at least 2 .*got 1"),
    ],
)
def test_what_cannot_be_promised_to_clients_is_refused(
    words: dict, num_clients: int, told: str
) -> None:
    settings = PrivateRoundsConfig(**{"epsilon": 2.0, **words})
    with pytest.raises(ConfigError, match=told):
        rounds_guarantee(settings, num_clients, num_clients, 12)


# --- rounds ---


def promise(cohort_size: int = 1000, **words: object) -> RoundsGuarantee:
    found = rounds_guarantee(PrivateRoundsConfig(epsilon=2.0, **words), 1000, cohort_size, 20)  # type: ignore[arg-type]
    assert found is not None
    return found


@pytest.mark.parametrize("batch_size", [64, 16])
def test_the_weights_of_several_embeddings_are_in_the_same_account(batch_size: int) -> None:
    """Four counts, each with a step's noise and a step's chance."""
    settings = PrivateAdaptConfig(epsilon=2.0, delta=1e-3, steps=10, batch_size=batch_size)
    found = guarantee_of(settings, 64, num_embs=4)
    assert found is not None
    assert found.num_steps == 14
    noise, rate = found.noise_multiplier, found.sampling_rate
    whole = dp_accounting.GaussianDpEvent(noise)
    one = whole if rate == 1 else dp_accounting.PoissonSampledDpEvent(rate, whole)
    steps, counts = (dp_accounting.SelfComposedDpEvent(one, num) for num in (10, 4))
    accountant = pld.PLDAccountant().compose(steps).compose(counts)
    assert accountant.get_epsilon(1e-3) == pytest.approx(2.0, rel=2e-3)


def test_a_run_stops_before_the_round_that_would_exceed_its_budget() -> None:
    found = promise()
    spent = [found.spent(t) for t in (0, 1, 10, 20)]
    assert spent == sorted(spent)
    assert (spent[0], spent[-1]) == (0.0, pytest.approx(2.0, abs=0.1))
    assert spent[-1] <= 2.0 < found.spent(21)
    found.check(19)
    with pytest.raises(BudgetError, match=r"^expected at most 20 noisy sums, .*, got 20 that are"):
        found.check(20)


def test_noise_of_a_larger_cohort_is_scaled_and_labelled() -> None:
    plain, found = promise(), promise(cohort_size=40, noise_cohort=1000)
    assert found.sampling_rate == plain.sampling_rate
    assert found.spent(20) == plain.spent(20)
    assert found.round(0.3).sum_noise == pytest.approx(0.04 * found.noise_multiplier)
    assert found.round(0.3).expected == 40  # the noise in the mean is that of 1000 clients
    assert (found.tags()["dp"], found.tags()["privacy.noise_cohort"]) == ("simulated", "1000")
    assert "privacy.noise_cohort" not in plain.tags()


def test_adaptive_clipping_pays_for_its_count() -> None:
    """Also where both sums have the noise of more clients than are simulated."""
    for found, scale in (
        (promise(clip_quantile=0.5), 1.0),
        (promise(cohort_size=100, noise_cohort=1000, clip_quantile=0.5), 0.1),
    ):
        z, one = found.noise_multiplier, found.round(2.0)
        assert one.count_noise == pytest.approx(scale * 50)  # a twentieth of a cohort
        whole = (one.sum_noise / scale) ** -2 + (2 * 50) ** -2
        assert whole == pytest.approx(z**-2)


def test_adaptive_clipping_finds_the_quantile() -> None:
    """Without noise the clip norm goes to the median of the clients' norms."""
    norms = np.linspace(0.1, 2.1, 41)
    found, clip_norm = promise(clip_quantile=0.5), 0.01
    assert found.next_clip(1.0, 1.0) == pytest.approx(math.exp(-0.1))
    assert promise().next_clip(1.0, None) == 1.0
    for _ in range(150):
        clip_norm = found.next_clip(clip_norm, float((norms <= clip_norm).mean()))
    assert clip_norm == pytest.approx(1.1, abs=0.06)
    for _ in range(10_000):  # of clients whose weights never move
        clip_norm = found.next_clip(clip_norm, 1.0)
    assert clip_norm == SMALLEST_CLIP
