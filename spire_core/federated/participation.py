"""Participation in a round: the cohort, and by chance the clients that drop out or fall behind.

The chances are a scenario of the simulation; clients that really fail are another matter. Every
draw is a function of the seed, the client and the round.
"""

from collections.abc import Sequence

import numpy as np

from spire_core.rng import derive_seed, numpy_generator

SPARSE_FROM = 100_000  # clients


def choose_cohort(num_clients: int, cohort_size: int, seed: int, round_idx: int) -> list[int]:
    """Return this round's clients in ascending order, drawn without replacement.

    They are the head of `torch.randperm`, drawn without importing torch: its generator is the
    Mersenne twister of numpy's `RandomState`, seeded with 32 bits, and its loop swaps element i
    with one of those from i on. From `SPARSE_FROM` clients on another draw takes time that depends
    on the cohort alone.
    """
    if num_clients >= SPARSE_FROM:
        rng = numpy_generator(seed, "cohort", round_idx)
        return sorted(rng.choice(num_clients, cohort_size, replace=False).tolist())
    twister = np.random.RandomState(derive_seed(seed, "cohort", round_idx) & 0xFFFFFFFF)
    order = list(range(num_clients))
    for i, word in enumerate(np.frombuffer(twister.bytes(4 * cohort_size), "<u4").tolist()):
        j = i + word % (num_clients - i)
        order[i], order[j] = order[j], order[i]
    return sorted(order[:cohort_size])


def responding_clients(
    cohort: Sequence[int], drop_rate: float, seed: int, round_idx: int
) -> list[int]:
    """Return the clients of a cohort that respond; each drops out with probability `drop_rate`.

    If all clients would drop out, the one whose draw was closest to responding does respond. The
    draws are nested: a client that drops out at rate p drops out at every higher rate.
    """
    if drop_rate == 0.0:
        return list(cohort)
    draws = _draws("drop_out", cohort, seed, round_idx)
    responding = [client_id for client_id in cohort if draws[client_id] >= drop_rate]
    return responding or [max(cohort, key=draws.__getitem__)]


def stragglers(
    cohort: Sequence[int], straggler_rate: float, seed: int, round_idx: int
) -> tuple[int, ...]:
    """Return the clients of a cohort that fall behind; each does with this probability."""
    if straggler_rate == 0.0:
        return ()
    draws = _draws("straggler", cohort, seed, round_idx)
    return tuple(client_id for client_id in cohort if draws[client_id] < straggler_rate)


def _draws(purpose: str, cohort: Sequence[int], seed: int, round_idx: int) -> dict[int, float]:
    """Return a number in [0, 1) for each client."""
    return {c: numpy_generator(seed, purpose, c, round_idx).random() for c in cohort}
