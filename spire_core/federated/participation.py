"""Participation in a round: the cohort, and by chance the clients that drop out.

The chances are a scenario of the simulation; clients that really fail are another matter. Every
draw is a function of the seed, the client and the round; that of a private cohort is one of a
secret key in the place of the seed.
"""

from collections.abc import Sequence

import numpy as np

from spire_core.privacy.noise import SecretNoise
from spire_core.rng import numpy_generator


def choose_cohort(num_clients: int, cohort_size: int, seed: int, round_idx: int) -> list[int]:
    """Return this round's clients in ascending order, drawn without replacement.

    Every set of clients is equally likely. Time and memory depend on the cohort alone: numpy lists
    the whole population only if it is small (10,000) or at most 20 times the cohort.
    """
    rng = numpy_generator(seed, "cohort", round_idx)
    # The order is not kept, so it need not be random.
    return sorted(rng.choice(num_clients, cohort_size, replace=False, shuffle=False).tolist())


def secret_cohort(
    num_clients: int, cohort_size: int, noise: SecretNoise, round_idx: int
) -> list[int]:
    """Return this round's clients in ascending order, each drawn by itself under a key (Poisson).

    `cohort_size` take part on average, and maybe none.
    """
    chosen = noise.chosen(num_clients, cohort_size / num_clients, "cohort", round_idx)
    return np.flatnonzero(chosen).tolist()


def responding_clients(
    cohort: Sequence[int],
    drop_rate: float,
    seed: int,
    round_idx: int,
    may_be_empty: bool = False,
) -> list[int]:
    """Return the clients of a cohort that respond; each drops out with probability `drop_rate`.

    If all clients would drop out, the one whose draw was closest to responding does respond, unless
    a round may be empty: there, whether a client responds depends on no other client. The draws are
    nested: a client that drops out at rate p drops out at every higher rate.
    """
    if drop_rate == 0.0:
        return list(cohort)
    draws = {c: numpy_generator(seed, "drop_out", c, round_idx).random() for c in cohort}
    responding = [client_id for client_id in cohort if draws[client_id] >= drop_rate]
    if responding or may_be_empty:
        return responding
    return [max(cohort, key=draws.__getitem__)]
