"""What a pool says of a unit of work, and how a cohort is cut into groups."""

from typing import Any

import pytest

from pipeline.federation.pool import LocalClientPool, Unit
from spire_core.config.client import ClientConfig
from spire_core.errors import ClusterError


class Failing:
    """Stands in for a worker whose task meets a fault."""

    def fit(self, unit: Unit) -> list[int]:
        raise ZeroDivisionError("no steps")


@pytest.mark.parametrize(
    ("unit", "who"), [(7, "client 7"), ((7,), "client 7"), ((2, 5), "clients 2, 5")]
)
def test_an_error_names_the_clients(unit: Unit, who: str) -> None:
    worker: Any = Failing()
    with pytest.raises(ClusterError, match=f"for {who}, got ZeroDivisionError.*no steps"):
        LocalClientPool(worker).run_all("fit", [unit])


def test_a_cohort_is_cut_in_its_own_order() -> None:
    cohort = [1, 4, 5, 8, 9]
    assert ClientConfig(engine="loop").groups(cohort) == [(1,), (4,), (5,), (8,), (9,)]
    two = ClientConfig(engine="grouped", group_size=2)
    assert two.groups(cohort) == [(1, 4), (5, 8), (9,)]
    assert ClientConfig(engine="grouped", group_size=9).groups(cohort) == [(1, 4, 5, 8, 9)]


def test_groups_grow_with_the_cohort_where_their_size_is_not_set() -> None:
    def sizes(num_clients: int) -> list[int]:
        return [len(group) for group in ClientConfig(engine="grouped").groups(range(num_clients))]

    assert [sizes(n) for n in (4, 12, 140)] == [[4], [5, 5, 2], [7] * 20]
    assert sizes(1005) == [10] * 100 + [5]
