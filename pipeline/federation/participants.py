"""The clients that stand for a large population, or a private one: the first that take part."""

import itertools
from collections.abc import Callable

from pipeline.config.schema import Config
from spire_core.federated.participation import choose_cohort, responding_clients

MANY_CLIENTS = 1000
NUM_REPRESENTATIVES = 100  # clients that stand for a larger population


def has_secret_cohorts(config: Config) -> bool:
    """Whether cohorts are a part of all clients that follows from the noise key."""
    federation = config.federation
    return config.privacy.rounds.is_on and federation.cohort_size < federation.num_clients


def all_stand_for_all(config: Config) -> bool:
    """Whether every pre-training client is one of those that stand for all."""
    return config.federation.num_clients <= MANY_CLIENTS and not config.privacy.rounds.is_on


def public_representatives(config: Config) -> list[int]:
    """Return the pre-training clients that stand for all where no secret key draws cohorts.

    Where one does, they are those of as many cohorts that follow from the seed.
    """
    num_clients, cohort_size = config.federation.num_clients, config.federation.cohort_size
    if all_stand_for_all(config):
        return list(range(num_clients))
    return first_participants(
        config, lambda round_idx: choose_cohort(num_clients, cohort_size, config.seed, round_idx)
    )


def first_participants(config: Config, cohort_of: Callable[[int], list[int]]) -> list[int]:
    """Return the first clients that take part, at least `NUM_REPRESENTATIVES` if there are enough.

    `cohort_of`: the cohort of a round. Those that drop out by chance have not taken part.
    """
    federation, participants = config.federation, dict[int, None]()
    wanted = max(NUM_REPRESENTATIVES, config.eval.num_clients or 0)
    for round_idx in range(federation.num_rounds):
        if len(participants) >= wanted:
            break
        chances = (federation.drop_rate, config.seed, round_idx, config.privacy.rounds.is_on)
        responding = responding_clients(cohort_of(round_idx), *chances)
        participants |= dict.fromkeys(responding)
    return list(itertools.islice(participants, wanted))
