"""A worker's own part in private rounds: noise that is one summand, and no client's."""

from pathlib import Path

import numpy as np

from pipeline.clients.worker import ClientWorker
from pipeline.config.load import load_config
from pipeline.federation.messages import WorkerSetup
from pipeline.federation.partitioning import promise_to_clients
from pipeline.federation.setup import prepare
from pipeline.runs.noise_key import keep_noise_key
from spire_core.federated.messages import Broadcast, RoundPlan
from spire_core.federated.private_updates import NOISE, ClippedFormat
from spire_core.federated.sums import HiddenSum
from spire_core.privacy.noise import SecretNoise, key_of

WORDS = (
    "privacy.rounds.epsilon=8",
    "client.opt_state=reset",
    "client.engine=loop",
    "privacy.noise_key=k",
)
WORDS += ("eval.extractor=none",)


def test_the_noise_of_a_round_is_a_summand_of_its_own(mnist_root: Path, tmp_path: Path) -> None:
    setting = prepare(load_config("smoke", [*WORDS, f"data.root={mnist_root}"]))
    keep_noise_key(tmp_path, setting.config.privacy)
    parts = (setting.mixtures, setting.partition, setting.extractor, tmp_path)
    worker = ClientWorker(WorkerSetup(setting.config, *parts), setting.images)
    promise = promise_to_clients(setting.config)
    assert promise is not None
    private = promise.round(0.25)
    before = np.linspace(-1e-3, 1e-3, setting.model.layout.size, dtype=np.float32)
    broadcast, sums = Broadcast(before), list[HiddenSum]()
    form = ClippedFormat(broadcast, len(before), private)
    for round_idx in range(2):
        plan = RoundPlan(round_idx, 1.0, shares_local=True, tau=1, private=private)
        total = worker.hidden_total([None], broadcast, plan)
        assert total.client_ids == [NOISE]
        again = worker.hidden_total([None], broadcast, plan)
        np.testing.assert_array_equal(total.numbers, again.numbers)
        expected = form.noise(SecretNoise(key_of("k")), round_idx)
        np.testing.assert_array_equal(total.numbers, expected)
        sums.append(total)
    assert (sums[0].numbers != sums[1].numbers).mean() > 0.99
    for total in sums:
        change = form.decode(total).weights.astype(np.float64) - before
        deviation = promise.noise_multiplier * 0.25 / setting.config.federation.cohort_size
        np.testing.assert_allclose(change.std(), deviation, rtol=0.05)
