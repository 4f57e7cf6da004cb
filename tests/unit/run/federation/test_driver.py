"""Rounds of a driver: what clients are told, and what fails, over workers that may lose sums."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pipeline.config.federation import FederationConfig
from pipeline.config.schema import Config
from pipeline.federation.driver import Driver
from pipeline.federation.pool import MAX_TRIES, LocalClientPool
from pipeline.federation.rounds import RoundSettings
from spire_core.config.client import ClientConfig
from spire_core.config.method import MethodConfig
from spire_core.config.server import ServerConfig
from spire_core.errors import ClusterError, DivergenceError
from spire_core.federated.messages import Broadcast, ClientReport, ClientUpdate, RoundPlan
from spire_core.federated.participation import responding_clients
from spire_core.federated.server import ServerState
from spire_core.federated.sums import UpdateSum

NUM_CLIENTS, SIZE = 4, 6
Trouble = Callable[[int, int], None]  # of a client, asked so many times


class AddingWorker:
    """Client c adds c + 1 to every weight, and has 10 (c + 1) examples and a loss of c."""

    def __init__(self, settings: RoundSettings, trouble: Trouble = lambda c, n: None) -> None:
        self.settings, self.trouble, self.total = settings, trouble, None
        self.asked = dict.fromkeys(range(NUM_CLIENTS), 0)
        self.plans: list[RoundPlan] = []

    def fit(
        self, client_ids: tuple[int, ...], broadcast: Broadcast, plan: RoundPlan
    ) -> list[ClientReport]:
        self.plans.append(plan)
        if self.total is None or self.total[0] != plan.round_idx:
            self.total = (plan.round_idx, UpdateSum(broadcast, plan.num_examples))
        for c in client_ids:
            self.asked[c] += 1
            self.trouble(c, self.asked[c])
            weights, num = broadcast.weights + c + 1, 10 * (c + 1)
            if c not in self.total[1].client_ids:
                self.total[1].add(ClientUpdate(c, num, 4, float(c), weights))
        return [ClientReport(c, 10 * (c + 1), 4, float(c), 24) for c in client_ids]

    def summed(self, name: int) -> list[int]:
        own = self.merged(name, None)
        return [] if own is None else own.client_ids

    def merged(self, name: int, others: UpdateSum | None) -> UpdateSum | None:
        if self.total is None or self.total[0] != name:
            return others
        if others is not None:
            self.total[1].merge(others)
        return self.total[1]

    def forget_sum(self) -> None:
        self.total = None


def settings_for(method: str = "spire", **federation: Any) -> RoundSettings:
    sizes = {"num_clients": NUM_CLIENTS, "cohort_size": NUM_CLIENTS, "num_rounds": 8, "tau": 4}
    config = Config(
        federation=FederationConfig(**{**sizes, **federation}),
        client=ClientConfig(engine="loop", opt_state="reset", warmup_rounds=2),
        server=ServerConfig(ema=0.0),
        method=MethodConfig(method),
    )
    return RoundSettings(config, [10 * (c + 1) for c in range(NUM_CLIENTS)], SIZE)


def driver_of(pool: Any, settings: RoundSettings) -> Driver:
    return Driver(pool, ServerState.initial(np.zeros(SIZE, np.float32)), settings)


def driver_with(
    trouble: Trouble = lambda c, n: None, method: str = "spire", **federation: Any
) -> tuple[Driver, Any]:
    settings = settings_for(method, **federation)
    worker: Any = AddingWorker(settings, trouble)
    return driver_of(LocalClientPool(worker), settings), worker


def test_every_round_tells_its_rate_and_what_is_shared() -> None:
    driver, worker = driver_with(method="shared_rep")
    for round_idx in range(8):
        stats = driver.run_round((1, 3))
        assert stats.loss == pytest.approx((0 * 10 + 1 * 20 + 2 * 30 + 3 * 40) / 100)
        assert (stats.up_bytes, stats.down_bytes) == (4 * 24, 4 * 24)
        assert (stats.num_steps, stats.num_dropped) == (16, 0)
        plan = worker.plans[-1]
        assert (plan.round_idx, plan.kept_rounds, plan.tau) == (round_idx, (1, 3), 4)
        assert plan.lr_scale == driver.settings.client.lr_scale(round_idx, 8)
        assert plan.shares_local == (round_idx < 4)
    assert driver.model_weights().tolist() == pytest.approx([8 * 3.0] * SIZE, rel=1e-6)


def test_clients_that_drop_out_are_counted_and_the_rest_is_renormalised() -> None:
    driver, _ = driver_with(drop_rate=0.5)
    for round_idx in range(8):
        there, before = responding_clients(range(4), 0.5, 0, round_idx), driver.model_weights()[0]
        stats = driver.run_round()
        assert stats.num_dropped == NUM_CLIENTS - len(there)
        moved = sum((c + 1) ** 2 for c in there) / sum(c + 1 for c in there)
        assert driver.model_weights()[0] == pytest.approx(before + moved, rel=1e-6)


def test_work_that_fails_is_done_again_and_nothing_changes() -> None:
    def trouble(client_id: int, asked: int) -> None:
        if client_id == 2 and asked < MAX_TRIES:
            raise OSError("the disk is gone")

    driver, worker = driver_with(trouble)
    driver.run_round()
    whole, _ = driver_with()
    whole.run_round()
    assert driver.model_weights().tolist() == whole.model_weights().tolist()
    assert worker.asked == {0: 1, 1: 1, 2: MAX_TRIES, 3: 1}


@pytest.mark.parametrize(
    ("error", "kind", "told", "num_tries"),
    [
        (OSError("no disk"), ClusterError, r"client 1, got OSError.*no disk.*3 times", MAX_TRIES),
        (MemoryError(), ClusterError, r"client 1, got too little memory.*lower res", MAX_TRIES),
        (DivergenceError("NaN from client 1"), DivergenceError, "client 1", 1),
    ],
)
def test_a_client_that_always_fails_ends_the_run_with_its_name(
    error: Exception, kind: type[Exception], told: str, num_tries: int
) -> None:
    def trouble(client_id: int, _: int) -> None:
        if client_id == 1:
            raise error

    driver, worker = driver_with(trouble)
    with pytest.raises(kind, match=told):
        driver.run_round()
    assert worker.asked[1] == num_tries
    assert driver.state.round_idx == 0


class SeveralWorkers(LocalClientPool):
    """Workers of one process in turns, each with a sum of its own; `lose` is called between."""

    def __init__(self, workers: Sequence[Any], lose: Callable[["SeveralWorkers"], None]) -> None:
        super().__init__(workers[0])
        self.workers, self.lose, self.num_calls = list(workers), lose, 0

    def run_all(self, task: str, units: Sequence[Any], *args: Any, **more: Any) -> list[Any]:
        found = []
        for unit in units:
            self.num_calls += 1
            worker = self.workers[self.num_calls % len(self.workers)]
            found.append(getattr(worker, task)(unit, *args))
            self.lose(self)
        return found

    def each(self, method: str, *args: Any) -> Iterator[Any]:
        yield from (getattr(worker, method)(*args) for worker in self.workers)

    def total(self, name: int | str) -> Any:
        total = None
        for worker in self.workers:
            total = worker.merged(name, total)
        return total


def lost_between_two_clients(pool: SeveralWorkers) -> None:
    """A process that is killed after its first client begins anew, without a sum."""
    if pool.num_calls == 3:
        pool.workers[1].forget_sum()


def answer_is_lost(pool: SeveralWorkers) -> None:
    """A client whose answer is lost after it was added is computed by another worker as well."""
    if pool.num_calls == 4:
        one, other = pool.workers
        other.total[1].merge(one.total[1])


@pytest.mark.parametrize("lose", [lost_between_two_clients, answer_is_lost])
def test_each_client_is_in_the_mean_once(lose: Callable[[SeveralWorkers], None]) -> None:
    whole, _ = driver_with()
    whole.run_round()
    settings = whole.settings
    pool = SeveralWorkers([AddingWorker(settings), AddingWorker(settings)], lose)
    driver = driver_of(pool, settings)
    stats = driver.run_round()
    assert driver.model_weights().tolist() == whole.model_weights().tolist()
    assert stats.num_steps == 16
    assert pool.num_calls > NUM_CLIENTS


def test_sums_that_are_lost_again_and_again_end_the_run() -> None:
    settings = settings_for()
    pool = SeveralWorkers([AddingWorker(settings)], lambda pool: pool.workers[0].forget_sum())
    with pytest.raises(ClusterError, match="got them lost 3 times"):
        driver_of(pool, settings).run_round()


@pytest.mark.parametrize(("ema", "after_one"), [(0.95, 0.9), (0.0, 1.0)])
def test_clients_draw_with_the_moving_average_if_there_is_one(ema: float, after_one: float) -> None:
    settings = settings_for(num_clients=1, cohort_size=1)
    settings = replace(settings, config=replace(settings.config, server=ServerConfig(ema=ema)))
    driver = driver_of(LocalClientPool(AddingWorker(settings)), settings)
    driver.run_round(())
    assert driver.model_weights() == pytest.approx(np.full(SIZE, after_one))
    assert driver.state.weights.tolist() == [1.0] * SIZE
