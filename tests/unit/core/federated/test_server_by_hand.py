"""The server's optimizers, averages and choices, each against numbers worked out by hand."""

import math
from typing import Any

import numpy as np
import pytest
from plain_mean import average

from spire_core.config.server import ServerConfig
from spire_core.federated.messages import AdamMoments, ClientUpdate
from spire_core.federated.server import ServerState, aggregate


def after_round(
    state: ServerState, updates: list[ClientUpdate], config: ServerConfig
) -> ServerState:
    return aggregate(state, average(updates, state.broadcast), config)


def update(client_id: int, num_examples: int, values: list[float], **more: Any) -> ClientUpdate:
    weights = np.array(values, dtype=np.float32)
    return ClientUpdate(client_id, num_examples, 1, 0.0, weights, **more)


def test_adam_over_three_rounds() -> None:
    config = ServerConfig(optimizer="fedadam", lr=0.01, momentum=0.9)
    state = ServerState.initial(np.zeros(1, dtype=np.float32))
    x, m, v = 0.0, 0.0, 0.001**2
    for target in (0.02, -0.01, 0.04):
        state = after_round(state, [update(0, 7, [target])], config)
        delta = target - x
        m, v = 0.9 * m + 0.1 * delta, 0.99 * v + 0.01 * delta**2
        x += 0.01 * m / (math.sqrt(v) + 0.001)
        assert state.weights == pytest.approx(x, rel=1e-5)


def test_momentum_goes_at_its_rate() -> None:
    config = ServerConfig(optimizer="fedavgm", momentum=0.9, lr=0.5)
    state = ServerState.initial(np.zeros(1, dtype=np.float32))
    state = after_round(state, [update(0, 1, [1.0])], config)
    assert state.weights == pytest.approx(0.5)
    state = after_round(state, [update(0, 1, [1.0])], config)  # velocity 0.9 + 0.5
    assert state.weights == pytest.approx(0.5 + 0.5 * 1.4)


def test_the_running_average_is_of_the_weights_and_forgets_the_start() -> None:
    """Its decay is 1 / 10 in the first round and 2 / 11 in the second."""
    config = ServerConfig(lr=0.5, ema=0.95)
    state = ServerState.initial(np.zeros(1, dtype=np.float32))
    state = after_round(state, [update(0, 1, [2.0])], config)  # weights 1
    assert state.ema == pytest.approx(0.9)
    state = after_round(state, [update(0, 1, [3.0])], config)  # weights 2
    assert state.ema == pytest.approx(2 / 11 * 0.9 + 9 / 11 * 2)


def test_moments_and_steps_are_weighted_by_examples() -> None:
    def sent(client_id: int, num_examples: int, moment: float) -> ClientUpdate:
        one, steps = np.full(2, moment, np.float32), np.full(4, moment, np.float32)
        moments = AdamMoments(one, one**2, steps)
        return update(client_id, num_examples, [0.0, 0.0], moments=moments)

    start = ServerState.initial(np.zeros(2, np.float32))
    after = after_round(start, [sent(0, 1, 2.0), sent(1, 3, 6.0)], ServerConfig())
    assert after.moments is not None
    assert [array[0] for array in after.moments.arrays] == [5.0, 28.0, 5.0]
