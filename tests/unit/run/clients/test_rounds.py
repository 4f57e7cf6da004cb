"""The clients' part of a round, in a trainer without a worker."""

import gzip
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.clients.client_data import ClientData
from pipeline.clients.context import ModelContext
from pipeline.clients.profiler import WorkerProfiler
from pipeline.clients.rounds import ClientTrainer
from pipeline.config.load import load_config
from spire_core.federated.messages import Broadcast, ClientUpdate, RoundPlan
from spire_core.federated.private_updates import ClippedFormat
from spire_core.network.flat_model import initial_weights
from spire_core.partition.split import ClientSplit
from spire_core.privacy.guarantee import PrivateRound
from spire_core.privacy.noise import GRID

WORDS = ["model.width=8", "model.d_emb=4", "client.batch_size=4", "client.opt_state=reset"]
PRIVATE = PrivateRound(0.5, 1.0, None, 2.0)


class Cohort:
    """Clients of eight images each, in groups of two if they are trained together.

    `spread`: the standard deviation of normal numbers that are added to the first weights.
    """

    def __init__(
        self,
        engine: str,
        client_ids: Iterable[int],
        preset: str = "smoke",
        words: Sequence[str] = WORDS,
        spread: float = 0.0,
    ) -> None:
        size = ["client.group_size=2"] if engine == "grouped" else []
        config = load_config(preset, [*words, f"client.engine={engine}", *size])
        rng = np.random.default_rng(0)
        images = rng.integers(0, 256, (64, 1, 16, 16), np.uint8)
        self.trainer = ClientTrainer(ModelContext.start(config, images.shape[1:]))
        weights = initial_weights(config.model, config.method, 1, 0).numpy()
        self.weights = weights + spread * rng.standard_normal(len(weights), np.float32)
        places = np.arange(64).reshape(8, 8)
        splits = [ClientSplit(c, places[c % 8], places[0, :2]) for c in client_ids]
        self.clients = {split.client_id: ClientData(split, images) for split in splits}

    def train(self, client_ids: Sequence[int], plan: RoundPlan) -> list[ClientUpdate]:
        updates, context = list[ClientUpdate](), self.trainer.context
        for group in context.config.client.groups(client_ids):
            states = [context.new_state(client_id) for client_id in group]
            own = [self.clients[client_id] for client_id in group]
            for update, _ in self.trainer.train(own, states, Broadcast(self.weights), plan):
                assert isinstance(update, ClientUpdate)
                updates.append(update)
        return updates


@pytest.mark.parametrize("engine", ["loop", "grouped"])
@pytest.mark.parametrize("private", [None, PRIVATE])
def test_a_profile_names_clients_unless_the_round_is_private(
    private: PrivateRound | None, engine: str, tmp_path: Path
) -> None:
    profiler = WorkerProfiler(torch.device("cpu"))  # torch's own would print lines, now and later
    cohort = Cohort(engine, (41, 77))
    plan = RoundPlan(2, 1.0, shares_local=True, tau=1, private=private)
    profiler.start()
    cohort.train((41, 77), plan)
    profiler.save(tmp_path, "rounds")
    [trace] = tmp_path.glob("*.gz")
    events = json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]
    spans = [event["name"] for event in events if event["name"].startswith("round 3")]
    groups = ["41, 77"] if engine == "grouped" else ["41", "77"]
    named = [f"round 3, clients {ids}" for ids in groups]
    assert spans == (named if private is None else ["round 3"] * len(groups))


def moved_by_the_first(cohort: Cohort) -> float:
    """Return how far the sum of the others lies from theirs without client 0, over the clip norm.

    Client 0 itself, whose summand is clipped, is in neither sum.
    """
    plan = RoundPlan(2, 1.0, True, tau=8, private=PRIVATE)

    def total(client_ids: Sequence[int]) -> np.ndarray:
        updates = cohort.train(client_ids, plan)
        form = ClippedFormat(Broadcast(cohort.weights), len(updates[0].weights), PRIVATE)
        found = np.zeros(form.size, np.uint64)
        for update in (update for update in updates if update.client_id != 0):
            summand = form.encode(update)
            assert isinstance(summand, np.ndarray)
            found += summand
        return found.view(np.int64) / GRID

    everybody = sorted(cohort.clients)
    return float(np.linalg.norm(total(everybody) - total(everybody[1:])))


@pytest.mark.parametrize(("engine", "moved"), [("loop", 0.0), ("grouped", 1e-3)])
def test_a_client_that_is_left_out_leaves_the_summands_of_the_others(
    engine: str, moved: float
) -> None:
    """One by one to the last bit; in groups, which are then cut elsewhere, up to rounding."""
    assert moved_by_the_first(Cohort(engine, range(5))) <= moved


@pytest.mark.parametrize("engine", ["loop", "grouped"])
def test_groups_have_no_bound_on_what_a_client_moves(engine: str) -> None:
    """With attention, weights away from the start and more clients it is above a thousandth.

    Alone to the last bit here too.
    """
    cohort = Cohort(engine, range(12), "mnist-cpu", ["client.opt_state=reset"], spread=0.2)
    moved = moved_by_the_first(cohort)
    assert moved == 0 if engine == "loop" else 1e-5 < moved < 1e-2
