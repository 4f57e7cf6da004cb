"""Clients that fail, or send what cannot be averaged: done again, dropped, or the end."""

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.config.federation import FederationConfig
from pipeline.config.load import load_config
from pipeline.experiment.run import run_experiment
from pipeline.experiment.watcher import Watcher
from pipeline.federation.driver import Driver, choose_cohort
from pipeline.federation.pool import LocalClientPool
from pipeline.federation.receiving import UpdateReceiver
from pipeline.federation.rounds import RoundSettings
from pipeline.federation.work import ClientFailure, Work
from spire_core.config.client import ClientConfig
from spire_core.config.method import MethodConfig
from spire_core.config.server import ServerConfig
from spire_core.errors import AggregationError, ClusterError
from spire_core.federated.accumulation import Part
from spire_core.federated.client import train_client
from spire_core.federated.messages import (
    AdamMoments,
    Broadcast,
    ClientReport,
    ClientUpdate,
    RoundPlan,
)
from spire_core.federated.participation import responding_clients, stragglers
from spire_core.federated.private_state import PrivateState
from spire_core.federated.server import ServerState

NUM_CLIENTS, SIZE, TAU = 4, 6, 4
BREAKER = 3
Fault = Callable[[ClientUpdate, int], ClientUpdate]


class FakeWorker:
    """Adds its id + 1 to every weight; `fault(update, how often this client was asked)`."""

    def __init__(self, fault: Fault, settings: RoundSettings) -> None:
        self.receiver = UpdateReceiver(settings)
        self.fault, self.asked = fault, dict.fromkeys(range(NUM_CLIENTS), 0)
        self.undone: list[tuple[int, int]] = []

    def undo_round(self, client_id: int, round_idx: int) -> None:
        self.undone.append((client_id, round_idx))

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
        num_steps = plan.num_steps(client_id, num_examples, 10)
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


@pytest.mark.parametrize("fault", [crash(3, 99), spoil(3, 99, **POISONS["nan"])])
def test_dropped_clients_are_counted_and_the_rest_is_renormalised(fault: Fault) -> None:
    driver = driver_with(fault, on_client_error="drop")
    stats = driver.run_round()
    assert (stats.num_dropped, stats.num_absent, stats.num_steps) == (1, 0, 3 * TAU)
    assert driver.pool.worker.undone == [(3, 0)]
    # Clients 0, 1, 2 moved by 1, 2, 3 and count 10, 20, 30: 140 / 60.
    assert driver.model_weights().tolist() == pytest.approx([140 / 60] * SIZE, rel=1e-6)


def test_a_dropped_client_ends_as_if_it_had_not_been_in_that_round(
    mnist_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that diverges for a round spoils neither the backbone nor what it keeps itself."""
    round_idx, client_id = 1, 2

    def spoilt(*args: Any) -> tuple[ClientUpdate, PrivateState]:
        update, state = train_client(*args)
        if (args[2].client_id, args[-1].round_idx) != (client_id, round_idx):
            return update, state
        nan = {name: tensor * float("nan") for name, tensor in state.to_tensors().items()}
        spoilt_state = PrivateState.from_tensors(nan)
        return replace(update, weights=update.weights * np.nan), spoilt_state

    def smaller(*args: Any) -> list[int]:
        cohort = choose_cohort(*args)
        return [c for c in cohort if (c, args[-1]) != (client_id, round_idx)]

    settings = ["federation.num_rounds=3", "federation.num_clients=3", "federation.cohort_size=3"]
    settings += ["resources.pool=local", "tracking.enabled=false", f"tracking.root={tmp_path}"]
    settings += [f"data.root={mnist_root}", "eval.num_images=8", "eval.num_loss_images=8"]
    settings += ["adapt.epochs=1", "diffusion.sample_steps=2", "federation.on_client_error=drop"]
    settings += ["client.engine=loop"]
    changes = {
        "pipeline.clients.rounds.train_client": spoilt,
        "pipeline.federation.driver.choose_cohort": smaller,
    }
    found = [run_experiment(load_config("smoke", settings), None, Watcher()).state_fingerprint]
    for target, function in changes.items():
        with monkeypatch.context() as patch:
            patch.setattr(target, function)
            result = run_experiment(load_config("smoke", settings), None, Watcher())
            found.append(result.state_fingerprint)
    undisturbed, dropped, absent = found
    assert dropped == absent != undisturbed


class OneProcess(LocalClientPool):
    """Stands in for one actor: a client that breaks it takes with it all that was asked at once."""

    def attempt(self, work: Work) -> list[Any]:
        groups = [unit for unit in work.units if not isinstance(unit, int)]
        if any(BREAKER in group for group in groups):
            return [ClientFailure(unit, "gone", num_lost=len(groups)) for unit in groups]
        return super().attempt(work)


@pytest.mark.parametrize("engine", ["loop", "grouped"])
def test_a_client_that_breaks_its_process_drops_nobody_else(engine: str) -> None:
    driver = driver_with(fine, {"engine": engine, "group_size": 2}, on_client_error="drop")
    driver = Driver(OneProcess(driver.pool.worker), driver.state, driver.settings)
    assert driver.run_round().num_dropped == 1
    # Clients 0, 1, 2 moved by 1, 2, 3 and count 10, 20, 30: 140 / 60.
    assert driver.model_weights().tolist() == pytest.approx([140 / 60] * SIZE, rel=1e-6)
    assert driver.pool.worker.undone == [(BREAKER, 0)]


def out_of_memory(client_id: int, times: int) -> Fault:
    def fault(update: ClientUpdate, asked: int) -> ClientUpdate:
        if update.client_id == client_id and asked <= times:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore")
        return update

    return fault


@pytest.mark.parametrize("policy", ["retry", "drop"])
@pytest.mark.parametrize("engine", ["loop", "grouped"])
def test_a_want_of_memory_drops_nobody_and_names_the_settings(policy: str, engine: str) -> None:
    client = {"engine": engine, "group_size": 2}
    driver = driver_with(out_of_memory(2, 99), client, on_client_error=policy)
    with pytest.raises(ClusterError, match=r"client.* in round 0, got too little memory \(") as no:
        driver.run_round()
    assert "lower resources.num_actors or, in a new run, federation.cohort_size" in str(no.value)
    assert driver.pool.worker.undone == []
    driver = driver_with(out_of_memory(2, 1), client, on_client_error=policy)  # it passes
    assert weights_after(driver) == pytest.approx(weights_after(driver_with(fine, client)))
    assert driver.pool.worker.undone == []


def test_a_round_that_drops_everybody_is_an_error() -> None:
    driver = driver_with(spoil(0, 99), on_client_error="drop")
    driver.pool.worker.fault = lambda update, asked: crash(update.client_id, 99)(update, asked)
    with pytest.raises(AggregationError, match=r"at least one update.*round 0, got none of 4"):
        driver.run_round()


def test_fail_does_not_try_again() -> None:
    driver = driver_with(crash(0, 1), on_client_error="fail")
    with pytest.raises(ClusterError):
        driver.run_round()
    assert driver.pool.worker.asked[0] == 1


def test_a_change_beyond_the_limit_is_refused() -> None:
    limit = 3.5 * SIZE**0.5  # client 3 moves by 4 in each of the numbers
    driver = driver_with(fine, on_client_error="drop", max_update_norm=limit)
    assert driver.run_round().num_dropped == 1
    with pytest.raises(AggregationError, match=r"norm 9\.8, above 8\.57321, from client 3"):
        driver_with(fine, max_update_norm=limit).run_round()


def test_absent_clients_and_stragglers_are_counted_and_the_rest_is_renormalised() -> None:
    """Seed 0, round 1: who answers is drawn, the mean is over these alone."""
    scenario = {"drop_rate": 0.5, "straggler_rate": 0.5, "straggler_work": 0.5}
    driver = driver_with(fine, **scenario)
    seen = set()
    for round_idx in range(8):
        there = responding_clients(range(NUM_CLIENTS), 0.5, 0, round_idx)
        behind = stragglers(there, 0.5, 0, round_idx)
        before = driver.model_weights()[0]
        asked = dict(driver.pool.worker.asked)
        stats = driver.run_round()
        absent = NUM_CLIENTS - len(there)
        assert (stats.num_dropped, stats.num_absent) == (absent, absent)
        assert stats.num_stragglers == len(behind)
        assert stats.num_steps == TAU * len(there) - TAU // 2 * len(behind)
        assert [c for c, n in driver.pool.worker.asked.items() if n > asked[c]] == there
        moved = sum((c + 1) ** 2 for c in there) / sum(c + 1 for c in there)
        assert driver.model_weights()[0] == pytest.approx(before + moved, rel=1e-6)
        seen.add((absent, len(behind)))
    assert len(seen) > 2
    assert driver.pool.worker.undone == []  # who stays away has learnt nothing


def test_failures_add_to_those_who_stay_away() -> None:
    """Nobody is counted twice: client 3 fails in the rounds in which it answers."""
    driver = driver_with(crash(3, 99), on_client_error="drop", drop_rate=0.4)
    for round_idx in range(4):
        there = responding_clients(range(NUM_CLIENTS), 0.4, 0, round_idx)
        stats = driver.run_round()
        assert stats.num_absent == NUM_CLIENTS - len(there)
        assert stats.num_dropped == stats.num_absent + (3 in there)


def test_an_answer_for_another_client_is_refused() -> None:
    """Client 1 answers in the name of client 2: neither counted as 2 nor lost in silence."""

    def named(update: ClientUpdate, asked: int) -> ClientUpdate:
        return replace(update, client_id=2) if update.client_id == 1 else update

    with pytest.raises(AggregationError, match=r"\[2\] instead of \[1\] from client 1 in round 0"):
        driver_with(named).run_round()
    driver = driver_with(named, on_client_error="drop")
    assert driver.run_round().num_dropped == 1
    # Clients 0, 2, 3 moved by 1, 3, 4 and count 10, 30, 40: 260 / 80.
    assert driver.model_weights().tolist() == pytest.approx([260 / 80] * SIZE, rel=1e-6)


def test_three_tries_are_three_whatever_goes_wrong_in_them() -> None:
    """Client 1 crashes and sends NaN in turns."""

    def fault(update: ClientUpdate, asked: int) -> ClientUpdate:
        kinds = (crash(1, 99), spoil(1, 99, **POISONS["nan"]))
        return kinds[asked % 2](update, asked)

    driver = driver_with(fault)
    with pytest.raises(AggregationError, match="NaN or infinity in weights from client 1"):
        driver.run_round()
    assert driver.pool.worker.asked == {0: 1, 1: 3, 2: 1, 3: 1}
