"""A worker trains by the settings of its run."""

from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.clients.worker import ClientWorker
from pipeline.config.load import load_config
from pipeline.federation.messages import WorkerSetup
from spire_core.federated.messages import Broadcast, RoundPlan
from spire_core.network.flat_model import initial_weights
from spire_core.partition.split import ClientSplit, Partition
from spire_core.rng import torch_generator


@pytest.mark.parametrize(
    ("groups", "setting"),
    [([(0,), (1,)], "client.emb_dropout=0.5"), ([(0, 1)], "client.prox_mu=10")],
)
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
        return np.stack([update.weights for update in updates])

    plain = trained("plain")
    assert np.array_equal(plain, trained("again"))
    moved = np.abs(plain - trained("other", setting)).max(axis=1)
    assert (moved > 1e-4).all()
