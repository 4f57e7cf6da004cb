"""The mean of updates and of their moments: its special cases, and the bounds that it keeps."""

import numpy as np
import pytest

from spire_core.config.server import ServerConfig
from spire_core.errors import AggregationError
from spire_core.federated.accumulation import UpdateShape, UpdateSum, average
from spire_core.federated.messages import AdamMoments, Broadcast, ClientUpdate
from spire_core.federated.server import ServerState, aggregate
from spire_core.federated.update_checks import CheckedUpdate
from spire_core.rng import numpy_generator


def after_round(
    state: ServerState, updates: list[ClientUpdate], config: ServerConfig
) -> ServerState:
    return aggregate(state, average(updates, state.broadcast), config)


def updates(rows: list[list[float]], num_examples: int = 1) -> list[ClientUpdate]:
    arrays = [np.array(row, dtype=np.float32) for row in rows]
    return [ClientUpdate(k, num_examples, 1, 0.0, array) for k, array in enumerate(arrays)]


def test_of_one_client_it_is_that_client() -> None:
    values = numpy_generator(0, "arrays").normal(size=20).astype(np.float32)
    sent = [ClientUpdate(0, 7, 1, 0.0, values)]
    np.testing.assert_array_equal(average(sent, Broadcast(values)).weights, values)


def with_moments(client_id: int, seed: int) -> ClientUpdate:
    """Moments that keep Adam's bound, m^2 <= v, some of them with equality."""
    generator = numpy_generator(seed, "moments", client_id)
    exp_avg = generator.normal(size=200)
    exp_avg_sq = exp_avg**2 * np.maximum(1.0, generator.normal(size=200) + 1)
    arrays = [a.astype(np.float32) for a in (np.zeros(200), exp_avg, exp_avg_sq, np.full(4, 4.0))]
    return ClientUpdate(client_id, 1 + client_id, 4, 0.0, arrays[0], AdamMoments(*arrays[1:]))


@pytest.mark.parametrize("num_clients", [3, 4, 7])
def test_adams_moments_stay_moments(num_clients: int) -> None:
    for seed in range(5):
        sent = [with_moments(k, seed) for k in range(num_clients)]
        state = ServerState.initial(np.zeros(200, dtype=np.float32))
        after = after_round(state, sent, ServerConfig()).moments
        assert after is not None
        assert (after.exp_avg_sq >= 0).all()
        assert (after.exp_avg.astype(np.float64) ** 2 <= after.exp_avg_sq * (1 + 1e-5)).all()


def test_what_is_not_shared_stays() -> None:
    state = ServerState.initial(np.array([0.0, 0.0, 5.0], dtype=np.float32))
    sent = updates([[1.0, 1.0], [2.0, 2.0], [9.0, 9.0]])
    after = after_round(state, sent, ServerConfig())
    assert after.weights.tolist() == [4.0, 4.0, 5.0]


def test_more_examples_than_a_round_was_planned_for_are_refused() -> None:
    """The units of its sum are too small for them."""
    before = Broadcast(np.zeros(2, np.float32))
    total = UpdateSum(before, UpdateShape(2, False, total_examples=5))
    [one, other] = [CheckedUpdate(u) for u in updates([[1.0, 2.0], [3.0, 4.0]], num_examples=3)]
    total.accumulate(one)
    with pytest.raises(AggregationError, match="5 examples at most, got 6 with those of client 1"):
        total.accumulate(other)
    assert total.client_ids == (0,)
