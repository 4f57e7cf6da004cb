"""The weights that a driver hands out after a round."""

from typing import Any

import numpy as np
import pytest

from pipeline.config.federation import FederationConfig
from pipeline.federation.driver import Driver
from pipeline.federation.pool import LocalClientPool
from pipeline.federation.receiving import UpdateReceiver
from pipeline.federation.rounds import RoundSettings
from spire_core.config.client import ClientConfig
from spire_core.config.method import MethodConfig
from spire_core.config.server import ServerConfig
from spire_core.federated.accumulation import Part
from spire_core.federated.messages import Broadcast, ClientReport, ClientUpdate, RoundPlan
from spire_core.federated.server import ServerState


class StepWorker:
    """Its clients add 1 to every weight."""

    def __init__(self, settings: RoundSettings) -> None:
        self.receiver = UpdateReceiver(settings)

    def fit_group(
        self, client_ids: tuple[int, ...], broadcast: Broadcast, plan: RoundPlan
    ) -> list[ClientReport]:
        updates = [ClientUpdate(c, 10, 1, 0.0, broadcast.weights + 1) for c in client_ids]
        return self.receiver.receive(client_ids, updates, broadcast, plan)

    def round_part(self, round_idx: int, start: int, stop: int) -> Part | None:
        return self.receiver.part(round_idx, start, stop)


def test_the_cost_of_clients_is_their_steps() -> None:
    federation = FederationConfig(num_clients=2, cohort_size=2, num_rounds=8, tau=4)
    client = ClientConfig(engine="loop")
    parts = (federation, client, ServerConfig(), MethodConfig())
    rounds = RoundSettings(*parts, seed=0, num_examples=[10, 10], shared_size=6)
    assert rounds.cost(rounds.plan(0, (), (0, 1)), (0, 1)) == 2 * 4


@pytest.mark.parametrize(("ema", "after_one"), [(0.95, 0.9), (0.0, 1.0)])
def test_clients_draw_with_the_moving_average_if_there_is_one(ema: float, after_one: float) -> None:
    federation = FederationConfig(num_clients=2, cohort_size=2, num_rounds=8, tau=1)
    client = ClientConfig(engine="loop", opt_state="reset")
    rounds = RoundSettings(
        federation, client, ServerConfig(ema=ema), MethodConfig(), 0, [10, 10], 6
    )
    worker: Any = StepWorker(rounds)
    driver = Driver(LocalClientPool(worker), ServerState.initial(np.zeros(6, np.float32)), rounds)
    driver.run_round(())
    assert driver.model_weights() == pytest.approx(np.full(6, after_one))
    assert driver.state.weights.tolist() == [1.0] * 6
