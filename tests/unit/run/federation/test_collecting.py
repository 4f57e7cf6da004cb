"""Sums that several workers hold become one round, whoever is lost on the way."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pipeline.config.federation import FederationConfig
from pipeline.federation.driver import Driver
from pipeline.federation.pool import ClientFailure, LocalClientPool, Work, run_here
from pipeline.federation.receiving import UpdateReceiver
from pipeline.federation.rounds import RoundSettings
from spire_core.config.client import ClientConfig
from spire_core.config.method import MethodConfig
from spire_core.config.server import ServerConfig
from spire_core.errors import ClusterError
from spire_core.federated import accumulation
from spire_core.federated.accumulation import Part
from spire_core.federated.messages import (
    AdamMoments,
    Broadcast,
    ClientReport,
    ClientUpdate,
    RoundPlan,
)
from spire_core.federated.server import ServerState
from spire_core.methods import NETWORK_PARTS
from spire_core.rng import numpy_generator

NUM_CLIENTS, SIZE, NUM_ROUNDS = 9, 5000, 3


class Worker:
    """Its clients send random numbers of their own; moments vary over many magnitudes."""

    def __init__(self, settings: RoundSettings) -> None:
        self.receiver, self.asked = UpdateReceiver(settings), list[int]()

    def fit_group(
        self, client_ids: tuple[int, ...], broadcast: Broadcast, plan: RoundPlan
    ) -> list[ClientReport]:
        self.asked += client_ids
        updates = [update_of(c, broadcast, plan) for c in client_ids]
        return self.receiver.receive(client_ids, updates, broadcast, plan)

    def round_part(self, round_idx: int, start: int, stop: int) -> Part | None:
        return self.receiver.part(round_idx, start, stop)

    def forget_round(self) -> None:
        self.receiver.forget()

    def undo_round(self, client_id: int, round_idx: int) -> None:
        pass


def update_of(client_id: int, broadcast: Broadcast, plan: RoundPlan) -> ClientUpdate:
    rng = numpy_generator(0, "update", client_id, plan.round_idx)
    moved, first = rng.standard_normal((2, SIZE)) * 10 ** rng.uniform(-9, -1, (2, SIZE))
    arrays = (first, first**2, rng.random(len(NETWORK_PARTS)))
    moments = AdamMoments(*(array.astype(np.float32) for array in arrays))
    weights = broadcast.weights + moved.astype(np.float32)
    return ClientUpdate(client_id, 10 + client_id, 1, 0.5, weights, moments)


class SplitPool(LocalClientPool):
    """Several workers in this process, which take the units in turns."""

    def __init__(self, settings: RoundSettings, num_workers: int) -> None:
        self.workers: list[Any] = [Worker(settings) for _ in range(num_workers)]
        super().__init__(self.workers[0])
        self.turn = 0

    @property
    def num_workers(self) -> int:
        return len(self.workers)

    def attempt(self, work: Work) -> list[Any]:
        results = []
        for position in range(len(work.units)):
            self.turn += 1
            worker = self.workers[self.turn % self.num_workers]
            results += run_here(worker, work.part([position]))
        return results

    def each(self, method: str, *args: Any) -> list[Any]:
        return [getattr(worker, method)(*args) for worker in self.workers]


def rounds_of(aggregation: str, policy: str = "retry") -> RoundSettings:
    federation = FederationConfig(
        num_clients=NUM_CLIENTS,
        cohort_size=NUM_CLIENTS,
        num_rounds=NUM_ROUNDS,
        tau=1,
        on_client_error=policy,
    )
    client, server = ClientConfig(engine="grouped", group_size=2), ServerConfig(ema=0.5)
    parts = (federation, client, replace(server, aggregation=aggregation), MethodConfig())
    sizes = [10 + c for c in range(NUM_CLIENTS)]
    return RoundSettings(*parts, seed=0, num_examples=sizes, shared_size=SIZE)


def driver_with(
    pool_class: type[SplitPool], num_workers: int, aggregation: str, policy: str = "retry"
) -> Driver:
    settings = rounds_of(aggregation, policy)
    state = ServerState.initial(np.zeros(SIZE, dtype=np.float32))
    return Driver(pool_class(settings, num_workers), state, settings)


def state_after(driver: Driver, num_rounds: int = NUM_ROUNDS) -> dict[str, np.ndarray]:
    for _ in range(num_rounds):
        driver.run_round()
    assert driver.state.moments is not None
    return {"weights": driver.state.weights, **vars(driver.state.moments)}


def assert_same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    for name, numbers in expected.items():
        np.testing.assert_array_equal(found[name], numbers, err_msg=name)


@pytest.mark.parametrize("aggregation", ["mean", "median", "trimmed_mean"])
def test_the_number_of_workers_and_of_stretches_changes_nothing(
    aggregation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = state_after(driver_with(SplitPool, 1, aggregation))
    for num_workers in (2, 3, 7, 11):
        assert_same(state_after(driver_with(SplitPool, num_workers, aggregation)), expected)
    monkeypatch.setattr(accumulation, "STRETCH_BYTES", 1)  # the shortest: 1,024 numbers
    assert_same(state_after(driver_with(SplitPool, 3, aggregation)), expected)


class LosesItsSum(SplitPool):
    """In round 1 the last worker is lost after its clients' work, before or amid the sums."""

    stretches_before = 0
    times = 1

    def each(self, method: str, *args: Any) -> list[Any]:
        results = super().each(method, *args)
        if method == "round_part" and args[0] == 1 and self.times:
            if self.stretches_before == 0:
                self.times -= 1
                self.workers[-1].forget_round()
                results[-1] = None
            else:
                self.stretches_before -= 1
        return results


@pytest.mark.parametrize("aggregation", ["mean", "median"])
@pytest.mark.parametrize("stretches_before", [0, 2])
def test_clients_of_a_lost_sum_are_computed_again(
    stretches_before: int,
    aggregation: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(accumulation, "STRETCH_BYTES", 1)
    expected = state_after(driver_with(SplitPool, 1, aggregation))
    driver = driver_with(LosesItsSum, 3, aggregation)
    pool: Any = driver.pool
    pool.stretches_before = stretches_before
    assert_same(state_after(driver), expected)
    assert "updates in round 1 are lost: computed again" in caplog.text
    asked = sum(len(worker.asked) for worker in pool.workers)
    assert NUM_ROUNDS * NUM_CLIENTS < asked < (NUM_ROUNDS + 1) * NUM_CLIENTS


def test_sums_that_are_lost_again_and_again_are_one_sentence() -> None:
    driver = driver_with(LosesItsSum, 1, "mean")
    pool: Any = driver.pool
    pool.times, pool.last_loss = 99, ("a full disk", "free it")
    driver.run_round()
    with pytest.raises(
        ClusterError,
        match=r"in round 1 to be kept .* lost 3 times, at last by a full disk: free it; spire",
    ):
        driver.run_round()
    assert driver.state.round_idx == 1


class LosesClients(LosesItsSum):
    """The clients of the lost sum fail when they are asked again."""

    def attempt(self, work: Work) -> list[Any]:
        if work.task == "fit_group" and not self.times:
            return [ClientFailure(unit, "gone for good") for unit in work.units]
        return super().attempt(work)


def test_clients_that_are_lost_with_their_sum_are_dropped_and_the_others_count() -> None:
    driver = driver_with(LosesClients, 3, "mean", policy="drop")
    state_after(driver, num_rounds=2)
    stats = driver.last()[1]
    assert stats is not None
    assert 0 < stats.num_dropped < NUM_CLIENTS
    assert driver.state.round_idx == 2


class LosesAnAnswer(SplitPool):
    """In round 1 the answer of client 4's group is lost, whose updates are in a sum already."""

    times = 1

    def attempt(self, work: Work) -> list[Any]:
        results = super().attempt(work)
        for i, unit in enumerate(work.units):
            is_meant = work.task == "fit_group" and not isinstance(unit, int) and 4 in unit
            if is_meant and work.args[1].round_idx == 1 and self.times:
                self.times -= 1
                results[i] = ClientFailure(unit, "its answer was lost")
        return results


@pytest.mark.parametrize("aggregation", ["mean", "median"])
def test_a_client_whose_answer_was_lost_counts_once(aggregation: str) -> None:
    """It is computed again by another worker, while the first one still holds its update."""
    expected = state_after(driver_with(SplitPool, 1, aggregation))
    assert_same(state_after(driver_with(LosesAnAnswer, 2, aggregation)), expected)


def test_a_client_that_is_dropped_is_in_no_sum() -> None:
    """Its answer is lost for good, though its update had been accumulated."""
    driver = driver_with(LosesAnAnswer, 2, "mean", policy="drop")
    pool: Any = driver.pool
    pool.times = 2  # with its group, then alone
    found = state_after(driver, num_rounds=2)
    stats = driver.last()[1]
    assert stats is not None
    lost = {4}
    assert stats.num_dropped == len(lost)

    plain = driver_with(SplitPool, 1, "mean")
    state_after(plain, num_rounds=1)
    before, plan = plain.state.broadcast, RoundPlan(1, 1.0, shares_local=True)
    sent = [update_of(c, before, plan) for c in range(NUM_CLIENTS) if c not in lost]
    mean = accumulation.average(sent, before, ServerConfig())
    np.testing.assert_array_equal(found["weights"], mean.weights)


def test_an_update_can_be_clipped_and_the_sum_changed_once() -> None:
    """The places where client-level differential privacy comes in."""
    driver = driver_with(SplitPool, 2, "mean")
    pool: Any = driver.pool
    for worker in pool.workers:
        worker.receiver.transform = lambda update, broadcast: replace(
            update, weights=np.clip(update.weights, -0.01, 0.01)
        )
    driver.collector.transform = lambda mean: replace(mean, weights=mean.weights + np.float32(1))
    driver.run_round()
    assert driver.state.weights.min() >= 0.99
    assert driver.state.weights.max() <= 1.01
    assert (driver.state.weights != 1).mean() > 0.9
