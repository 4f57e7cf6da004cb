"""Clients that fail or send what cannot be averaged, again and again; and those that stay away."""

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.config.federation import FederationConfig
from pipeline.federation.driver import Driver
from pipeline.federation.pool import LocalClientPool
from pipeline.federation.receiving import UpdateReceiver
from pipeline.federation.rounds import RoundSettings
from spire_core.config.client import ClientConfig
from spire_core.config.method import MethodConfig
from spire_core.config.server import ServerConfig
from spire_core.errors import AggregationError, ClusterError
from spire_core.federated.accumulation import Part
from spire_core.federated.messages import (
    AdamMoments,
    Broadcast,
    ClientReport,
    ClientUpdate,
    RoundPlan,
)
from spire_core.federated.participation import responding_clients
from spire_core.federated.server import ServerState

NUM_CLIENTS, SIZE, TAU = 4, 6, 4
BREAKER = 3
Fault = Callable[[ClientUpdate, int], ClientUpdate]


class FakeWorker:
    """Adds its id + 1 to every weight; `fault(update, how often this client was asked)`."""

    def __init__(self, fault: Fault, settings: RoundSettings) -> None:
        self.receiver = UpdateReceiver(settings)
        self.fault, self.asked = fault, dict.fromkeys(range(NUM_CLIENTS), 0)

    def fit_group(
        self, client_ids: tuple[int, ...], broadcast: Broadcast, plan: RoundPlan
    ) -> list[ClientReport]:
        updates = [self.fit(client_id, broadcast, plan) for client_id in client_ids]
        return self.receiver.receive(client_ids, updates, broadcast, plan)

    def round_part(self, round_idx: int, start: int, stop: int) -> Part | None:
        return self.receiver.part(round_idx, start, stop)

    def forget_round(self) -> None:
        self.receiver.forget()

    def fit(self, client_id: int, broadcast: Broadcast, plan: RoundPlan) -> ClientUpdate:
        self.asked[client_id] += 1
        weights, num_examples = broadcast.weights + client_id + 1, 10 * (client_id + 1)
        num_steps = plan.num_steps(num_examples, 10)
        update = ClientUpdate(client_id, num_examples, num_steps, 0.5, weights)
        return self.fault(update, self.asked[client_id])


def driver_with(fault: Fault, client: dict[str, Any] | None = None, **federation: Any) -> Driver:
    settings = FederationConfig(
        num_clients=NUM_CLIENTS, cohort_size=NUM_CLIENTS, num_rounds=5, tau=TAU, **federation
    )
    state = ServerState.initial(np.zeros(SIZE, dtype=np.float32))
    training = ClientConfig(**{"engine": "loop", "opt_state": "reset", **(client or {})})
    parts = (settings, training, ServerConfig(ema=0.0), MethodConfig())
    num_examples = [10 * (client_id + 1) for client_id in range(NUM_CLIENTS)]
    rounds = RoundSettings(*parts, seed=0, num_examples=num_examples, shared_size=SIZE)
    worker: Any = FakeWorker(fault, rounds)
    return Driver(LocalClientPool(worker), state, rounds)


def fine(update: ClientUpdate, asked: int) -> ClientUpdate:
    return update


def spoil(client_id: int, times: int, **changes: Any) -> Fault:
    def fault(update: ClientUpdate, asked: int) -> ClientUpdate:
        if update.client_id != client_id or asked > times:
            return update
        return replace(update, **{k: v(update) for k, v in changes.items()})

    return fault


def crash(client_id: int, times: int) -> Fault:
    def fault(update: ClientUpdate, asked: int) -> ClientUpdate:
        if update.client_id == client_id and asked <= times:
            raise OSError("the disk is gone")
        return update

    return fault


POISONS = {
    "nan": {"weights": lambda u: np.full_like(u.weights, np.nan)},
    "infinity": {"weights": lambda u: np.full_like(u.weights, np.inf)},
    "shape": {"weights": lambda u: u.weights[:-1]},
    "no examples": {"num_examples": lambda u: 0},
    "unasked moments": {
        "moments": lambda u: AdamMoments(u.weights, u.weights, np.ones(4, np.float32))
    },
}


def weights_after(driver: Driver) -> list[float]:
    driver.run_round()
    return driver.model_weights().tolist()


@pytest.mark.parametrize("fault", [crash(2, 2), *(spoil(2, 2, **p) for p in POISONS.values())])
def test_work_done_again_gives_what_it_would_have_given(
    fault: Fault, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert weights_after(driver_with(fault)) == weights_after(driver_with(fine))
    assert "client 2" in caplog.text
    assert "in round 0" in caplog.text


@pytest.mark.parametrize("poison", POISONS)
def test_a_client_that_never_sends_anything_usable_is_named(poison: str) -> None:
    driver = driver_with(spoil(1, 99, **POISONS[poison]))
    with pytest.raises(AggregationError, match="client 1 in round 0"):
        driver.run_round()
    assert np.isfinite(driver.model_weights()).all()


def test_a_client_that_always_crashes_is_named_with_its_cause() -> None:
    with pytest.raises(ClusterError, match=r"client 1 in round 0, got OSError.*disk is gone"):
        driver_with(crash(1, 99)).run_round()


def out_of_memory(client_id: int, times: int) -> Fault:
    def fault(update: ClientUpdate, asked: int) -> ClientUpdate:
        if update.client_id == client_id and asked <= times:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore")
        return update

    return fault


@pytest.mark.parametrize("engine", ["loop", "grouped"])
def test_a_want_of_memory_names_the_settings(engine: str) -> None:
    client = {"engine": engine, "group_size": 2}
    driver = driver_with(out_of_memory(2, 99), client)
    with pytest.raises(ClusterError, match=r"client.* in round 0, got too little memory \(") as no:
        driver.run_round()
    assert "lower resources.num_actors or, in a new run, federation.cohort_size" in str(no.value)
    driver = driver_with(out_of_memory(2, 1), client)  # it passes
    assert weights_after(driver) == pytest.approx(weights_after(driver_with(fine, client)))


def test_absent_clients_are_counted_and_the_rest_is_renormalised() -> None:
    """Who answers is drawn, the mean is over these alone."""
    driver = driver_with(fine, drop_rate=0.5)
    seen = set()
    for round_idx in range(8):
        there = responding_clients(range(NUM_CLIENTS), 0.5, 0, round_idx)
        before = driver.model_weights()[0]
        asked = dict(driver.pool.worker.asked)
        stats = driver.run_round()
        assert stats.num_dropped == NUM_CLIENTS - len(there)
        assert stats.num_steps == TAU * len(there)
        assert [c for c, n in driver.pool.worker.asked.items() if n > asked[c]] == there
        moved = sum((c + 1) ** 2 for c in there) / sum(c + 1 for c in there)
        assert driver.model_weights()[0] == pytest.approx(before + moved, rel=1e-6)
        seen.add(len(there))
    assert len(seen) > 2


def test_an_answer_for_another_client_is_refused() -> None:
    """Client 1 answers in the name of client 2: neither counted as 2 nor lost in silence."""

    def named(update: ClientUpdate, asked: int) -> ClientUpdate:
        return replace(update, client_id=2) if update.client_id == 1 else update

    with pytest.raises(AggregationError, match=r"\[2\] instead of \[1\] from client 1 in round 0"):
        driver_with(named).run_round()


def test_three_tries_are_three_whatever_goes_wrong_in_them() -> None:
    """Client 1 crashes and sends NaN in turns."""

    def fault(update: ClientUpdate, asked: int) -> ClientUpdate:
        kinds = (crash(1, 99), spoil(1, 99, **POISONS["nan"]))
        return kinds[asked % 2](update, asked)

    driver = driver_with(fault)
    with pytest.raises(AggregationError, match="NaN or infinity in weights from client 1"):
        driver.run_round()
    assert driver.pool.worker.asked == {0: 1, 1: 3, 2: 1, 3: 1}
