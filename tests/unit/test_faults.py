"""Clients that fail, or send what cannot be averaged: done again, dropped, or the end."""

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.config import FederationConfig, load_config
from pipeline.driver import Driver, choose_cohort
from pipeline.experiment import run_experiment
from pipeline.pool import LocalClientPool
from pipeline.progress import Quiet
from spire_core.client import Broadcast, ClientUpdate, PrivateState, RoundPlan, train_client
from spire_core.errors import AggregationError, ClusterError
from spire_core.methods import MethodConfig
from spire_core.server import ServerConfig, ServerState
from spire_core.training import ClientConfig

NUM_CLIENTS, SIZE = 4, 6
Fault = Callable[[ClientUpdate, int], ClientUpdate]


class FakeWorker:
    """Adds its id + 1 to every weight; `fault(update, how often this client was asked)`."""

    def __init__(self, fault: Fault) -> None:
        self.fault, self.asked = fault, dict.fromkeys(range(NUM_CLIENTS), 0)
        self.forgotten: list[tuple[int, int]] = []

    def fit_group(
        self, client_ids: tuple[int, ...], broadcast: Broadcast, plan: RoundPlan
    ) -> list[ClientUpdate]:
        return [self.fit(client_id, broadcast) for client_id in client_ids]

    def fit(self, client_id: int, broadcast: Broadcast) -> ClientUpdate:
        self.asked[client_id] += 1
        weights = broadcast.weights + client_id + 1
        update = ClientUpdate(client_id, 10 * (client_id + 1), 1, 0.5, weights)
        return self.fault(update, self.asked[client_id])

    def forget(self, client_id: int, num_rounds_done: int) -> None:
        self.forgotten.append((client_id, num_rounds_done))


def driver_with(fault: Fault, **federation: Any) -> Driver:
    settings = FederationConfig(
        num_clients=NUM_CLIENTS, cohort_size=NUM_CLIENTS, num_rounds=5, tau=1, **federation
    )
    worker: Any = FakeWorker(fault)
    state = ServerState.initial(np.zeros(SIZE, dtype=np.float32))
    parts = (settings, ClientConfig(engine="loop"), ServerConfig(ema=0.0), MethodConfig())
    return Driver(LocalClientPool(worker), state, *parts, [10] * NUM_CLIENTS, 0, SIZE)


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
    "moments": {"exp_avg": lambda u: np.full(SIZE, np.nan, dtype=np.float32)},
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
    assert (stats.num_dropped, stats.num_steps) == (1, 3)
    # Clients 0, 1, 2 moved by 1, 2, 3 and count 10, 20, 30: 140 / 60.
    assert driver.model_weights().tolist() == pytest.approx([140 / 60] * SIZE, rel=1e-6)
    assert driver.pool.worker.forgotten == [(3, 0)]


def test_a_dropped_client_ends_as_if_it_had_not_been_in_that_round(
    mnist_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that diverges for a round spoils neither the backbone nor what it keeps itself."""
    round_idx, client_id = 1, 2

    def spoilt(*args: Any) -> tuple[ClientUpdate, PrivateState]:
        update, state = train_client(*args)
        if (args[-1], args[-3].round_idx) != (client_id, round_idx):
            return update, state
        nan = {name: tensor * float("nan") for name, tensor in state.items()}
        return replace(update, weights=update.weights * np.nan), nan

    def smaller(*args: Any) -> list[int]:
        cohort = choose_cohort(*args)
        return [c for c in cohort if (c, args[-1]) != (client_id, round_idx)]

    settings = ["federation.num_rounds=3", "federation.num_clients=3", "federation.cohort_size=3"]
    settings += ["resources.pool=local", "tracking.enabled=false", f"tracking.root={tmp_path}"]
    settings += [f"data.root={mnist_root}", "eval.num_images=8", "eval.num_loss_images=8"]
    settings += ["adapt.epochs=1", "diffusion.sample_steps=2", "federation.on_client_error=drop"]
    changes = {"pipeline.worker.train_client": spoilt, "pipeline.driver.choose_cohort": smaller}
    found = {}
    for target, function in changes.items():
        with monkeypatch.context() as patch:
            patch.setattr(target, function)
            found[target] = run_experiment(load_config("smoke", settings), None, Quiet())
    assert len({result.state_fingerprint for result in found.values()}) == 1


def test_a_round_that_drops_everybody_is_an_error() -> None:
    driver = driver_with(spoil(0, 99), on_client_error="drop")
    driver.pool.worker.fault = lambda update, asked: crash(update.client_id, 99)(update, asked)
    with pytest.raises(AggregationError, match="at least one update"):
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
