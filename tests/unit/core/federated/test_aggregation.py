"""Median and trimmed mean: numbers by hand, other implementations, and what wild clients can do."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import trim_mean

from pipeline.config.load import load_config
from spire_core.config.server import ServerConfig
from spire_core.errors import AggregationError, ConfigError
from spire_core.federated.accumulation import UpdateShape, average, make_accumulator
from spire_core.federated.aggregation import BLOCK, num_trimmed, robust_mean, trimmed_mean
from spire_core.federated.messages import AdamMoments, Broadcast, ClientUpdate
from spire_core.federated.server import ServerState, aggregate
from spire_core.federated.update_checks import CheckedUpdate
from spire_core.rng import numpy_generator

ROBUST = ("median", "trimmed_mean")


def after_round(
    state: ServerState, updates: list[ClientUpdate], config: ServerConfig
) -> ServerState:
    return aggregate(state, average(updates, state.broadcast, config), config)


def updates(rows: list[list[float]], num_examples: int = 1) -> list[ClientUpdate]:
    arrays = [np.array(row, dtype=np.float32) for row in rows]
    return [ClientUpdate(k, num_examples, 1, 0.0, array) for k, array in enumerate(arrays)]


def weights_after(sent: list[ClientUpdate], **server: object) -> list[float]:
    state = ServerState.initial(np.zeros_like(sent[0].weights))
    return after_round(state, sent, ServerConfig(ema=0.0, **server)).weights.tolist()  # type: ignore[arg-type]


def test_median_by_hand() -> None:
    """Of 1, 2, 9 it is 2; of 1, 2, 4, 9 it is (2 + 4) / 2; each coordinate for itself."""
    odd = updates([[1.0, -5.0], [9.0, 0.0], [2.0, 8.0]])
    assert weights_after(odd, aggregation="median") == [2.0, 0.0]
    even = updates([[1.0], [9.0], [2.0], [4.0]])
    assert weights_after(even, aggregation="median") == [3.0]


def test_trimmed_mean_by_hand() -> None:
    """Of 0, 1, 2, 6, 90 without the ends: (1 + 2 + 6) / 3; without two at each end: 2."""
    sent = updates([[6.0], [90.0], [1.0], [0.0], [2.0]])
    assert weights_after(sent, aggregation="trimmed_mean", trim_fraction=0.2) == [3.0]
    assert weights_after(sent, aggregation="trimmed_mean", trim_fraction=0.4) == [2.0]


@pytest.mark.parametrize(
    ("num_clients", "fraction", "trimmed"),
    [
        (5, 0.2, 1),
        (10, 0.2, 2),
        (4, 0.2, 1),  # 0.8, rounded up
        (100, 0.07, 7),  # 7.000000000000001 in floats
        (3, 0.49, 1),
        (2, 0.49, 0),  # both are left
        (1, 0.2, 0),
    ],
)
def test_how_many_are_trimmed(num_clients: int, fraction: float, trimmed: int) -> None:
    assert num_trimmed(num_clients, fraction) == trimmed


@pytest.mark.parametrize("num_clients", [1, 2, 5, 8])
def test_against_numpy_and_scipy(num_clients: int) -> None:
    drawn = numpy_generator(0, "arrays").normal(size=(num_clients, 50)).astype(np.float32)
    median = robust_mean(drawn, "median", 0.2)
    np.testing.assert_allclose(median, np.median(drawn, axis=0), rtol=1e-6)
    trimmed = trimmed_mean(drawn, num_trimmed=num_clients // 4)  # as scipy rounds: down
    np.testing.assert_allclose(trimmed, trim_mean(drawn, 0.25, axis=0), rtol=1e-5, atol=1e-7)


def test_blocks_leave_no_seam() -> None:
    drawn = numpy_generator(0, "arrays").normal(size=(3, BLOCK + 5)).astype(np.float32)
    np.testing.assert_array_equal(trimmed_mean(drawn, 1), np.median(drawn, axis=0))


def combined(arrays: list[np.ndarray], num_examples: list[int], aggregation: str) -> np.ndarray:
    sent = [
        ClientUpdate(k, n, 1, 0.0, a)
        for k, (n, a) in enumerate(zip(num_examples, arrays, strict=True))
    ]
    return average(sent, Broadcast(arrays[0]), ServerConfig(aggregation=aggregation)).weights


@pytest.mark.parametrize("aggregation", ["mean", *ROBUST])
def test_of_one_client_it_is_that_client(aggregation: str) -> None:
    values = numpy_generator(0, "arrays").normal(size=20).astype(np.float32)
    np.testing.assert_array_equal(combined([values], [7], aggregation), values)


@pytest.mark.parametrize("aggregation", ROBUST)
def test_neither_the_order_nor_the_examples_of_clients_matter(aggregation: str) -> None:
    arrays = list(numpy_generator(1, "arrays").normal(size=(6, 40)).astype(np.float32))
    forward = combined(arrays, [1] * 6, aggregation)
    backward = combined(arrays[::-1], [1, 9, 2, 5, 7, 3], aggregation)
    np.testing.assert_array_equal(backward, forward)


@pytest.mark.parametrize("aggregation", ROBUST)
@pytest.mark.parametrize("wild", [1e30, -1e30])
def test_one_wild_client_cannot_leave_the_honest_ones(aggregation: str, wild: float) -> None:
    """Whatever it claims to hold: the result stays among the honest values. The mean does not."""
    honest = numpy_generator(2, "arrays").normal(size=(4, 30)).astype(np.float32)
    low, high = honest.min(axis=0), honest.max(axis=0)
    arrays = [*honest, np.full(30, wild, dtype=np.float32)]
    for seed in range(5):
        arrays = [arrays[k] for k in numpy_generator(seed, "order").permutation(5)]
        found = combined(arrays, [10**6 if a[0] == wild else 1 for a in arrays], aggregation)
        assert ((low <= found) & (found <= high)).all()
    assert not (np.abs(combined(arrays, [1] * 5, "mean")) < 1e6).any()


def with_moments(client_id: int, seed: int) -> ClientUpdate:
    """Moments that keep Adam's bound, m^2 <= v, some of them with equality."""
    generator = numpy_generator(seed, "moments", client_id)
    exp_avg = generator.normal(size=200)
    exp_avg_sq = exp_avg**2 * np.maximum(1.0, generator.normal(size=200) + 1)
    arrays = [a.astype(np.float32) for a in (np.zeros(200), exp_avg, exp_avg_sq, np.full(4, 4.0))]
    return ClientUpdate(client_id, 1 + client_id, 4, 0.0, arrays[0], AdamMoments(*arrays[1:]))


@pytest.mark.parametrize("aggregation", ["mean", *ROBUST])
@pytest.mark.parametrize("num_clients", [3, 4, 7])
def test_adams_moments_stay_moments(aggregation: str, num_clients: int) -> None:
    for seed in range(5):
        sent = [with_moments(k, seed) for k in range(num_clients)]
        state = ServerState.initial(np.zeros(200, dtype=np.float32))
        after = after_round(state, sent, ServerConfig(aggregation=aggregation)).moments
        assert after is not None
        assert (after.exp_avg_sq >= 0).all()
        assert (after.exp_avg.astype(np.float64) ** 2 <= after.exp_avg_sq * (1 + 1e-5)).all()


def test_moments_and_steps_are_robust_too() -> None:
    sent = [with_moments(k, 0) for k in range(3)]
    state = ServerState.initial(np.zeros(200, dtype=np.float32))
    honest = after_round(state, sent, ServerConfig(aggregation="median"))
    honest_moments = [u.moments for u in sent if u.moments is not None]
    huge = AdamMoments(*(array + np.float32(1e30) for array in honest_moments[0].arrays))
    spoilt = after_round(
        state, [replace(sent[0], moments=huge), *sent[1:]], ServerConfig(aggregation="median")
    )
    assert spoilt.moments is not None
    for array, *others in zip(
        spoilt.moments.arrays, *(m.arrays for m in honest_moments), strict=True
    ):
        assert array.max() <= max(other.max() for other in others)
    np.testing.assert_array_equal(spoilt.weights, honest.weights)


def test_what_is_not_shared_stays() -> None:
    state = ServerState.initial(np.array([0.0, 0.0, 5.0], dtype=np.float32))
    sent = updates([[1.0, 1.0], [2.0, 2.0], [9.0, 9.0]])
    after = after_round(state, sent, ServerConfig(aggregation="median"))
    assert after.weights.tolist() == [2.0, 2.0, 5.0]


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        (
            "server.aggregation=mode",
            "mean, median or trimmed_mean, got 'mode': did you mean mean",
        ),
        ("server.trim_fraction=0.5", r"in \(0, 0\.5\), got 0\.5: both ends are cut"),
        ("server.trim_fraction=0.0", r"in \(0, 0\.5\), got 0\.0: both ends are cut"),
        ("federation.cohort_size=2", "at least 3 with server.aggregation=median, got 2: of two"),
    ],
)
def test_wrong_values_are_one_sentence(override: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        load_config("smoke", ["server.aggregation=median", override])


def test_more_examples_than_a_round_was_planned_for_are_refused() -> None:
    """The units of its sum are too small for them."""
    before = Broadcast(np.zeros(2, np.float32))
    total = make_accumulator(before, UpdateShape(2, False, total_examples=5), ServerConfig())
    [one, other] = [CheckedUpdate(u) for u in updates([[1.0, 2.0], [3.0, 4.0]], num_examples=3)]
    total.accumulate(one)
    with pytest.raises(AggregationError, match="5 examples at most, got 6 with those of client 1"):
        total.accumulate(other)
    assert total.client_ids == (0,)
