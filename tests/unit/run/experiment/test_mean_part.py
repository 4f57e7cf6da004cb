"""The mean of clients' own parts: masked parts come in slices, and the mean has the same bits."""

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pipeline.runs.mask_key import mask_key

from pipeline.clients.memory import SERVER_ARRAYS
from pipeline.clients.worker import ClientWorker
from pipeline.config.load import load_config
from pipeline.experiment import adaptation
from pipeline.experiment.adaptation import SLICE_ARRAYS, mean_part
from pipeline.federation.messages import WorkerSetup
from pipeline.federation.pool import LocalClientPool
from pipeline.federation.setup import FederationSetup, prepare
from spire_core.federated.private_state import PrivateState
from spire_core.methods import LOCAL


class CountingPool(LocalClientPool):
    """Remembers how many masked parts were here at once."""

    def __init__(self, worker: ClientWorker) -> None:
        super().__init__(worker)
        self.slices: list[int] = []

    def run_all(self, task: str, units: Any, *args: Any, **more: Any) -> list[Any]:
        if task == "masked_part":
            self.slices.append(len(units))
        return super().run_all(task, units, *args, **more)


@pytest.fixture
def setting_and_pool(mnist_root: Path, tmp_path: Path) -> tuple[FederationSetup, CountingPool]:
    """Six clients, of which five have local layers of their own."""
    words = ["method=shared_rep", "adapt.local_init=mean", f"data.root={mnist_root}"]
    setting = prepare(load_config("smoke", [*words, "resources.pool=local"]))
    parts = (setting.mixtures, setting.partition, setting.extractor, tmp_path)
    worker = ClientWorker(WorkerSetup(setting.config, *parts), setting.images)
    for client_id in range(5):
        own = torch.randn(setting.model.layout.part_size(LOCAL)) / 10
        worker.store.save(client_id, 1, PrivateState({LOCAL: own}), ())
    return setting, CountingPool(worker)


def test_slices_of_clients_have_the_mean_of_all_at_once(
    setting_and_pool: tuple[FederationSetup, CountingPool],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    setting, pool = setting_and_pool
    layout, means = setting.model.layout, []
    weights, size = np.linspace(-1, 1, layout.size, dtype=np.float32), layout.part_size(LOCAL)
    assert 4 * size < SLICE_ARRAYS * layout.size < SERVER_ARRAYS * layout.size  # what rounds had
    for most in (6, 4, 1):
        monkeypatch.setattr(adaptation, "SLICE_ARRAYS", Fraction(most * size, layout.size))
        with mask_key(tmp_path, True):
            means.append(mean_part(setting, pool, LOCAL, weights))
    assert pool.slices == [6, 4, 2, 1, 1, 1, 1, 1, 1]
    assert torch.equal(means[0], means[1])
    assert torch.equal(means[0], means[2])
    own = [pool.worker.private_state(c).parts[LOCAL] for c in range(5)]
    expected = torch.stack([*own, torch.from_numpy(weights[layout.parts[LOCAL]])]).mean(0)
    torch.testing.assert_close(means[0], expected, rtol=0, atol=1e-6)
