"""The mean of clients' own parts, of which the sum alone leaves the workers."""

from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.clients.worker import ClientWorker
from pipeline.config.load import load_config
from pipeline.experiment import adaptation
from pipeline.experiment.adaptation import mean_part
from pipeline.federation.messages import WorkerSetup
from pipeline.federation.pool import LocalClientPool
from pipeline.federation.setup import prepare
from spire_core.federated.private_state import PrivateState
from spire_core.methods import LOCAL


def test_the_mean_is_that_of_all_clients_in_any_groups(
    mnist_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Five of six clients have local layers of their own; the last one has the backbone's."""
    words = ["method=shared_rep", "adapt.local_init=mean", f"data.root={mnist_root}"]
    setting = prepare(load_config("smoke", [*words, "resources.pool=local"]))
    parts = (setting.mixtures, setting.partition, setting.extractor, tmp_path)
    worker, layout = (
        ClientWorker(WorkerSetup(setting.config, *parts), setting.images),
        setting.model.layout,
    )
    for client_id in range(5):
        own = torch.randn(layout.part_size(LOCAL)) / 10
        worker.store.save(client_id, 1, PrivateState({LOCAL: own}), ())
    weights, means = np.linspace(-1, 1, layout.size, dtype=np.float32), []
    for most in (6, 4, 1):
        monkeypatch.setattr(adaptation, "ADDED_AT_ONCE", most)
        means.append(mean_part(setting, LocalClientPool(worker), LOCAL, weights))
        worker.forget_sum()
    assert torch.equal(means[0], means[1])
    assert torch.equal(means[0], means[2])
    states = [worker.private_state(c).parts[LOCAL] for c in range(5)]
    expected = torch.stack([*states, torch.from_numpy(weights[layout.parts[LOCAL]])]).mean(0)
    torch.testing.assert_close(means[0], expected, rtol=0, atol=1e-6)
