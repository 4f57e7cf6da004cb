"""Who takes part in a round and who drops out of it: draws by client and round."""

import time
import tracemalloc

import numpy as np
import pytest

from spire_core.federated.participation import choose_cohort, responding_clients
from spire_core.rng import derive_seed

COHORT = [1, 4, 5, 8, 9, 12]


@pytest.mark.parametrize("num_clients", [1, 2, 24, 1000, 20_000, 1_000_000])
def test_a_cohort_is_drawn_by_numpys_own_choice(num_clients: int) -> None:
    for cohort_size in {1, min(4, num_clients), min(1000, num_clients)}:
        for seed, round_idx in ((0, 0), (0, 7), (5, 0), (2**40, 3)):
            rng = np.random.default_rng(derive_seed(seed, "cohort", round_idx))
            drawn = rng.choice(num_clients, cohort_size, replace=False, shuffle=False)
            chosen = choose_cohort(num_clients, cohort_size, seed, round_idx)
            assert chosen == sorted(drawn.tolist())
            assert len({*chosen}) == cohort_size
            assert {*chosen} <= {*range(num_clients)}


@pytest.mark.parametrize("num_clients", [1_000_000, 100_000_000])
def test_a_cohort_costs_what_it_holds_not_what_the_population_does(num_clients: int) -> None:
    choose_cohort(num_clients, 1, 0, 0)
    tracemalloc.start()
    began = time.process_time()
    cohorts = [choose_cohort(num_clients, 100, 0, round_idx) for round_idx in range(10)]
    duration_s, (_, peak_bytes) = time.process_time() - began, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len({*map(tuple, cohorts)}) == 10
    assert peak_bytes < 2**20  # a number for each client would take 8 or 800 MB
    assert duration_s < 1


def test_a_draw_is_a_function_of_seed_client_and_round_alone() -> None:
    """The rest of the cohort makes no difference; seed and round do."""
    for round_idx in range(20):
        there = responding_clients(COHORT, 0.5, 0, round_idx)
        others = [2, 4, 5, 9, 20]
        assert {4, 5, 9} & {*there} == {4, 5, 9} & {*responding_clients(others, 0.5, 0, round_idx)}

    def pattern(seed: int, first: int) -> list[list[int]]:
        return [responding_clients(COHORT, 0.5, seed, r) for r in range(first, first + 10)]

    assert pattern(0, 0) != pattern(1, 0)
    assert pattern(0, 0) != pattern(0, 10)


def test_as_many_drop_out_as_the_chance_says() -> None:
    """Of 6000 draws at 0.3, within five standard deviations (0.03)."""
    rounds, cohort = range(100), list(range(60))
    away = 1 - sum(len(responding_clients(cohort, 0.3, 0, r)) for r in rounds) / 6000
    assert away == pytest.approx(0.3, abs=0.03)


@pytest.mark.parametrize("num_clients", [20, 100_000_000])
def test_draws_are_nested_over_drop_rates(num_clients: int) -> None:
    """Of a drawn cohort, who drops out at a rate does so at every higher one."""
    for round_idx in range(10):
        cohort = choose_cohort(num_clients, 12, 0, round_idx)
        rates = (0.0, 0.1, 0.5, 0.9, 0.999)
        there = [{*responding_clients(cohort, rate, 0, round_idx)} for rate in rates]
        assert there[4] <= there[3] <= there[2] <= there[1] <= there[0] == {*cohort}


def test_a_cohort_is_never_empty() -> None:
    for round_idx in range(50):
        assert len(responding_clients([3], 0.99, 0, round_idx)) == 1
        assert responding_clients(COHORT, 0.99, 0, round_idx)


def test_where_a_round_may_be_empty_no_client_responds_in_the_place_of_others() -> None:
    """A client more in the cohort adds itself at most."""
    sizes = set[int]()
    for round_idx in range(50):
        there = responding_clients(COHORT, 0.9, 0, round_idx, may_be_empty=True)
        sizes.add(len(there))
        for client_id in COHORT:
            others = [other for other in COHORT if other != client_id]
            without = responding_clients(others, 0.9, 0, round_idx, may_be_empty=True)
            assert without == [other for other in there if other != client_id]
    assert {0, 1} <= sizes
    assert responding_clients([], 0.9, 0, 0, may_be_empty=True) == []
