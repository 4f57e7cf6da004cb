"""The clients' part of a round, in a trainer without a worker."""

import numpy as np
import pytest
from torch.profiler import ProfilerActivity, profile

from pipeline.clients.client_data import ClientData
from pipeline.clients.context import ModelContext
from pipeline.clients.rounds import ClientTrainer
from pipeline.config.load import load_config
from spire_core.federated.messages import Broadcast, RoundPlan
from spire_core.network.flat_model import initial_weights
from spire_core.partition.split import ClientSplit
from spire_core.privacy.rounds import PrivateRound

WORDS = ["model.width=8", "model.d_emb=4", "federation.cohort_size=2", "client.batch_size=4"]


@pytest.mark.parametrize("engine", ["loop", "grouped"])
@pytest.mark.parametrize("private", [None, PrivateRound(0.5, 1.0, None, 2.0)])
def test_a_profile_names_clients_unless_the_round_is_private(
    private: PrivateRound | None, engine: str
) -> None:
    config = load_config("smoke", [*WORDS, f"client.engine={engine}"])
    images = np.random.default_rng(0).integers(0, 256, (20, 1, 16, 16), np.uint8)
    trainer = ClientTrainer(ModelContext.start(config, images.shape[1:]))
    splits = [ClientSplit(c, np.arange(8), np.arange(8, 10)) for c in (41, 77)]
    clients = [ClientData(split, images) for split in splits]
    groups = [clients] if engine == "grouped" else [[client] for client in clients]
    weights = initial_weights(config.model, config.method, 1, 0).numpy()
    plan = RoundPlan(2, 1.0, shares_local=True, tau=1, private=private)
    with profile(activities=[ProfilerActivity.CPU]) as recorded:
        for group in groups:
            states = [trainer.context.new_state(client.client_id) for client in group]
            trainer.train(group, states, Broadcast(weights), plan)
    spans = [event.name for event in recorded.events() if event.name.startswith("round 3")]
    named = [f"round 3, clients {names}" for names in ("41, 77", "41", "77")]
    expected = named[:1] if engine == "grouped" else named[1:]
    assert spans == (expected if private is None else ["round 3"] * len(groups))
