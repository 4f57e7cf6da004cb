"""What clients are told: the driver's plan of a round, and a worker's settings."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.clients.worker import ClientWorker
from pipeline.config.federation import FederationConfig
from pipeline.config.load import load_config
from pipeline.federation.driver import Driver
from pipeline.federation.messages import WorkerSetup
from pipeline.federation.pool import LocalClientPool
from pipeline.federation.receiving import UpdateReceiver
from pipeline.federation.rounds import RoundSettings
from spire_core.config.client import ClientConfig
from spire_core.config.method import MethodConfig
from spire_core.config.server import ServerConfig
from spire_core.federated.accumulation import Part
from spire_core.federated.messages import Broadcast, ClientReport, ClientUpdate, RoundPlan
from spire_core.federated.server import ServerState
from spire_core.network.flat_model import initial_weights
from spire_core.partition.split import ClientSplit, Partition
from spire_core.rng import torch_generator


class ListeningWorker:
    def __init__(self, settings: RoundSettings) -> None:
        self.receiver, self.plans = UpdateReceiver(settings), list[RoundPlan]()

    def fit_group(
        self, client_ids: tuple[int, ...], broadcast: Broadcast, plan: RoundPlan
    ) -> list[ClientReport]:
        """Client c has 10 * (c + 1) examples and a loss of c."""
        self.plans.append(plan)
        weights = broadcast.weights + 1
        updates = [ClientUpdate(c, 10 * (c + 1), 1, float(c), weights) for c in client_ids]
        return self.receiver.receive(client_ids, updates, broadcast, plan)

    def round_part(self, round_idx: int, start: int, stop: int) -> Part | None:
        return self.receiver.part(round_idx, start, stop)


def test_every_round_tells_its_rate_and_what_is_shared() -> None:
    federation = FederationConfig(num_clients=2, cohort_size=2, num_rounds=8, tau=1)
    client = ClientConfig(engine="loop", opt_state="reset", warmup_rounds=2)
    method = MethodConfig("shared_rep")
    rounds = RoundSettings(federation, client, ServerConfig(ema=0.0), method, 0, [10, 20], 6)
    worker: Any = ListeningWorker(rounds)
    start = ServerState.initial(np.zeros(6, np.float32))
    driver = Driver(LocalClientPool(worker), start, rounds)
    for round_idx in range(8):
        stats = driver.run_round((1, 3))
        assert stats.loss == pytest.approx(20 / 30)  # weighted by examples
        assert stats.down_bytes == 2 * 6 * 4
        plan = worker.plans[-1]
        assert (plan.round_idx, plan.kept_rounds, plan.tau) == (round_idx, (1, 3), 1)
        assert plan.lr_scale == client.lr_scale(round_idx, 8)
        assert plan.shares_local == (round_idx < 4)


@pytest.mark.parametrize("groups", [[(0,), (1,)], [(0, 1)]])
@pytest.mark.parametrize("setting", ["client.emb_dropout=0.5", "client.prox_mu=10"])
def test_a_worker_trains_by_the_settings(
    groups: list[tuple[int, ...]], setting: str, tmp_path: Path
) -> None:
    images = np.random.default_rng(0).integers(0, 256, (32, 1, 16, 16), np.uint8)
    own = [np.arange(16) + 16 * c for c in range(2)]
    partition = Partition(tuple(ClientSplit(c, own[c], own[c]) for c in range(2)), ())

    def trained(name: str, *more: str) -> np.ndarray:
        words = ["client.batch_size=8", "client.emb_dropout=0", *more]
        config = load_config("smoke", words)
        run_dir = tmp_path / name
        run_dir.mkdir()
        worker = ClientWorker(WorkerSetup(config, {}, partition, "", run_dir), images)
        weights = initial_weights(config.model, config.method, 1, 0)
        weights += 0.02 * torch.randn(weights.shape, generator=torch_generator(0, "more"))
        plan = RoundPlan(0, lr_scale=1.0, shares_local=True, tau=3)
        sent = [worker.train(group, Broadcast(weights.numpy()), plan) for group in groups]
        updates = [update for group in sent for update in group]
        return np.stack([u.weights for u in updates if isinstance(u, ClientUpdate)])

    plain = trained("plain")
    assert np.array_equal(plain, trained("again"))
    moved = np.abs(plain - trained("other", setting)).max(axis=1)
    assert (moved > 1e-4).all()
