"""Where the embedding of a client that arrives starts."""

from types import SimpleNamespace
from typing import Any

import torch

from pipeline.config.load import load_config
from pipeline.federation.participants import public_representatives
from pipeline.inference.arrival import _mean_emb
from spire_core.methods import CLIENT_EMB


def test_the_mean_is_of_the_clients_that_stand_for_all_in_the_run_too() -> None:
    words = ["partition=independent", "partition.client_size=40", "federation.num_clients=2000"]
    config = load_config("smoke", [*words, "federation.num_rounds=200", "adapt.init=mean"])
    ids = public_representatives(config)
    assert len(ids) < 200  # of the clients that took part
    took_part = [*ids, 1998, 1999, 2000]  # and others, and one of the run's own new clients
    parts = {c: torch.full((4,), float(c)) for c in took_part}
    run: Any = SimpleNamespace(
        config=config,
        client_ids=sorted(took_part),
        client_state=lambda c: SimpleNamespace(parts={CLIENT_EMB: parts[c]}),
    )
    found = _mean_emb(run, config.adapt)
    assert found is not None
    assert torch.equal(found, torch.stack([parts[c] for c in ids]).mean(0))
