"""What a pool says of a unit of work, and how it shares units among workers."""

import itertools
from collections.abc import Sequence
from typing import Any

import pytest

from pipeline.federation.pool import MAX_TRIES, LocalClientPool
from pipeline.federation.scheduling import WorkerSpeeds, balance
from pipeline.federation.work import ClientFailure, Unit, Work
from spire_core.config.client import ClientConfig
from spire_core.errors import ClusterError


class Failing:
    """Stands in for a worker whose task meets a fault."""

    def fit_group(self, unit: Unit) -> list[int]:
        raise ZeroDivisionError("no steps")


@pytest.mark.parametrize(
    ("unit", "who"), [(7, "client 7"), ((7,), "client 7"), ((2, 5), "clients 2, 5")]
)
def test_an_error_names_the_clients(unit: Unit, who: str) -> None:
    worker: Any = Failing()
    with pytest.raises(ClusterError, match=f"for {who}, got ZeroDivisionError.*no steps"):
        LocalClientPool(worker).run_all("fit_group", [unit])


class Fragile(LocalClientPool):
    """Stands in for actors, the first of which is asked everything but waves.

    A client that breaks its process takes with it all that was asked there. `is_node`: each unit is
    in a process of its own, and its node is what it breaks.
    """

    def __init__(
        self, breaker: int, num_breaks: int, num_actors: int = 1, is_node: bool = False
    ) -> None:
        super().__init__(None)
        self.breaker, self.num_breaks = breaker, num_breaks
        self.num_actors, self.is_node = num_actors, is_node
        self.attempts: list[list[Unit]] = []

    @property
    def num_workers(self) -> int:
        return self.num_actors

    def attempt(self, work: Work) -> list[Any]:
        self.attempts.append([*work.units])
        assert len(work.units) <= self.num_actors or not work.is_wave
        lost: Sequence[Unit] = []
        if self.breaker in work.units and self.num_breaks > 0:
            self.num_breaks -= 1
            lost = [self.breaker] if work.is_wave and not self.is_node else work.units
        num_lost = 1 if work.is_wave or self.is_node else len(lost)
        calls = zip(work.units, work.per_unit, work.costs, strict=True)
        results = [(work.task, unit, *work.args, *extra, cost) for unit, extra, cost in calls]
        return [
            ClientFailure(unit, "gone", num_lost=num_lost) if unit in lost else result
            for unit, result in zip(work.units, results, strict=True)
        ]


def test_those_who_are_lost_together_have_a_try_alone_in_their_process() -> None:
    """As many at a time as there are actors; only the one that breaks its process again fails."""
    pool, extra = Fragile(5, num_breaks=2, num_actors=2), [("a",), ("b",), ("c",), ("d",), ("e",)]
    results = pool.run("draw", [4, 5, 6, 7, 8], 0, per_unit=extra, costs=[1.0, 2.0, 3.0, 4.0, 5.0])
    assert results[0] == ("draw", 4, 0, "a", 1.0)
    assert results[1] == ClientFailure(5, "gone", num_lost=1)
    assert results[3:] == [("draw", 7, 0, "d", 4.0), ("draw", 8, 0, "e", 5.0)]
    assert pool.attempts == [[4, 5, 6, 7, 8], [4, 5], [6, 7], [8]]


def test_those_who_are_lost_with_their_node_have_a_try_with_nobody_beside_them() -> None:
    pool = Fragile(5, num_breaks=3, num_actors=2, is_node=True)
    results = pool.run("draw", [4, 5, 6])
    assert [isinstance(result, ClientFailure) for result in results] == [False, True, False]
    assert results[1].num_lost == 1
    assert pool.attempts == [[4, 5, 6], [4, 5], [6], [4], [5]]


def test_who_needs_all_results_gets_them_in_three_tries() -> None:
    pool = Fragile(5, num_breaks=1 + 2)  # a loss with others is nobody's failure
    assert [client_id for _, client_id, _ in pool.run_all("draw", [4, 5])] == [4, 5]
    assert pool.attempts == [[4, 5], [4], [5], [5], [5]]
    pool = Fragile(5, num_breaks=1 + MAX_TRIES)
    with pytest.raises(ClusterError, match="expected draw to end for client 5, got gone"):
        pool.run_all("draw", [4, 5])


def test_a_cohort_is_cut_in_its_own_order() -> None:
    cohort = [1, 4, 5, 8, 9]
    assert ClientConfig(engine="loop").groups(cohort) == [(1,), (4,), (5,), (8,), (9,)]
    two = ClientConfig(engine="grouped", group_size=2)
    assert two.groups(cohort) == [(1, 4), (5, 8), (9,)]
    assert ClientConfig(engine="grouped", group_size=9).groups(cohort) == [(1, 4, 5, 8, 9)]


def test_groups_grow_with_the_cohort_where_their_size_is_not_set() -> None:
    def sizes(num_clients: int) -> list[int]:
        return [len(group) for group in ClientConfig(engine="grouped").groups(range(num_clients))]

    assert [sizes(n) for n in (1, 4, 12)] == [[1], [4], [5, 5, 2]]
    assert [sizes(n) for n in (119, 140)] == [[5] * 23 + [4], [7] * 20]
    assert [sizes(n) for n in (200, 1005)] == [[10] * 20, [10] * 100 + [5]]


def test_the_costliest_units_go_first_to_who_ends_them_first() -> None:
    assert balance([1.0, 6.0, 2.0, 3.0], [1.0, 1.0]) == [[1], [0, 2, 3]]
    assert balance([5.0, 1.0, 4.0, 2.0], [0.2, 0.2]) == [[0, 1], [2, 3]]
    assert balance([1.0], [1.0] * 3) == [[0], [], []]
    assert balance([1.0] * 4, [3.0, 1.0]) == [[2], [0, 1, 3]]  # three times as fast
    everything = balance([float(i % 7) for i in range(50)], [1.0, 1.1, 1.2, 5.0])
    assert sorted(itertools.chain.from_iterable(everything)) == list(range(50))


def test_a_workers_speed_is_measured_for_each_task() -> None:
    speeds = WorkerSpeeds()
    for worker in range(2):  # a process's first time is longer, by as much as it likes
        speeds.learn("fit_group", worker, cost=4.0, seconds=9.0 + worker)
    assert speeds.of("fit_group", 3) == [1.0, 1.0, 1.0]
    speeds.learn("fit_group", 0, cost=4.0, seconds=2.0)
    speeds.learn("fit_group", 1, cost=4.0, seconds=6.0)
    assert speeds.of("fit_group", 3) == [0.5, 1.5, 1.0]  # nothing is known of the third
    assert speeds.of("draw", 2) == [1.0, 1.0]
    speeds.learn("fit_group", 0, cost=1.0, seconds=1.5)  # one slow round moves it a little
    assert speeds.of("fit_group", 1) == [pytest.approx(0.8)]
    speeds.renew(0)  # it was lost, and its first time as a new process does not count
    speeds.learn("fit_group", 0, cost=1.0, seconds=90.0)
    assert speeds.of("fit_group", 1) == [pytest.approx(0.8)]
    speeds.learn("fit_group", 0, cost=1.0, seconds=0.8)
    assert speeds.of("fit_group", 1) == [pytest.approx(0.8)]
