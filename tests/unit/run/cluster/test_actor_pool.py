"""Client actors that a node has no memory for are ended, and the others go on."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from ray.exceptions import ActorDiedError, ActorUnavailableError, RayError

from pipeline.clients.memory import Room
from pipeline.cluster import actor_pool
from pipeline.cluster.actor_pool import RayClientPool
from spire_core.errors import ClusterError

MIB = 2**20


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The actors that a pool has ended, in order."""
    found: list[str] = []
    here = SimpleNamespace(get_node_id=lambda: "elsewhere")
    monkeypatch.setattr(ray, "get_runtime_context", lambda: here)
    monkeypatch.setattr(ray, "kill", found.append)
    return found


def pool_after(may_shrink: bool, *free_mib: int) -> RayClientPool:
    """A pool of actors on nodes of their own with so much room for a step of 100 MiB."""
    names = [f"actor {i}" for i in range(len(free_mib))]
    pool = RayClientPool(names, (None, None), may_shrink=may_shrink)
    needs = [100, *[0] * (len(free_mib) - 1)]
    rooms = [
        Room(name, free * MIB, need * MIB)
        for name, need, free in zip(names, needs, free_mib, strict=True)
    ]
    pool._keep_fitting(rooms, 0)
    return pool


def test_actors_without_room_are_ended_and_the_others_go_on(
    ended: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    assert pool_after(True, 50, 200, 99, 100).actors == ["actor 1", "actor 3"]
    assert ended == ["actor 0", "actor 2"]
    assert "2 of 4 client actors go on: 100 MiB for a step" in caplog.text


@pytest.mark.parametrize(("may_shrink", "free"), [(False, (200, 50)), (True, (50, 50))])
def test_a_number_that_the_user_set_or_no_actor_at_all_ends_the_run(
    may_shrink: bool, free: tuple[int, int], ended: list[str]
) -> None:
    with pytest.raises(ClusterError, match="expected memory for 2 client actors, got 100 MiB for"):
        pool_after(may_shrink, *free)
    assert ended == []


class Remote:
    """A method of an actor; its "reference" is a function that returns the result or raises."""

    def __init__(self, outcome: Any) -> None:
        self.outcome = outcome

    def remote(self, *_: Any) -> Callable[[], Any]:
        def result() -> Any:
            if isinstance(self.outcome, Exception):
                raise self.outcome
            return self.outcome

        return result


class Actor:
    """Stands in for an actor; one whose node is lost never answers again."""

    def __init__(self, name: str, loss: RayError | None = None) -> None:
        self.ask, self.begin = Remote(loss or name), Remote(loss)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "get", lambda ref, timeout=None: ref())
    monkeypatch.setattr(actor_pool, "REVIVAL_S", 0.2)
    monkeypatch.setattr(actor_pool, "LEAST_LIMIT_S", 0.1)


AWAY = ActorUnavailableError("no node has room", None)  # it may still come
DEAD = ActorDiedError()  # another copy of the pool has ended it


@pytest.mark.usefixtures("impatient")
def test_a_pool_goes_on_without_actors_that_do_not_come_back(
    ended: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    actors = [Actor("a", AWAY), Actor("b"), Actor("c", DEAD), Actor("d")]
    pool = RayClientPool(actors, (None, None), may_shrink=True)
    assert list(pool.each("name")) == [None, "b", None, "d"]
    assert pool.num_workers == 2
    assert ended == [actors[0], actors[2]]
    assert "going on with 3 client actors, without a lost one: " in caplog.text
    assert "no node has room" in caplog.text
    assert list(pool.each("name")) == ["b", "d"]


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(("may_shrink", "other"), [(False, None), (True, AWAY)])
def test_a_lost_actor_ends_the_run_where_none_is_left_or_the_user_has_set_their_number(
    may_shrink: bool, other: RayError | None, ended: list[Any]
) -> None:
    pool = RayClientPool([Actor("a", AWAY), Actor("b", other)], (None, None), None, may_shrink)
    with pytest.raises(ClusterError, match=r"to begin again on any node in 0\..*no node has room"):
        list(pool.each("name"))
