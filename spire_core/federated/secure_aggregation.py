"""Simulated secure aggregation: the receiver learns the sum of the clients' vectors, no summand.

Pairwise additive masks as in Bonawitz et al. 2017 ("Practical Secure Aggregation for
Privacy-Preserving Machine Learning", section 4), without their recovery from drop-outs. Each pair
of clients shares a stream of random integers modulo 2**64, which one adds and the other subtracts.
All masks therefore cancel exactly in the sum over the whole cohort. Without a member the sum is
noise.

Protected: against a receiver that follows the protocol, sees only masked vectors and knows no
pair's seed. Each masked vector is uniform over the integers modulo 2**64, whatever its content.

Not protected: pair seeds derive from the run's seed, where a deployment has a key agreement between
clients, and numpy's generator is not cryptographic. Whoever knows the run's seed can unmask every
vector. The sum itself is public, and in a small cohort it reveals much about each member. Clients
may collude with the receiver, or send nonsense.
"""

from collections.abc import Collection, Sequence

import numpy as np
import torch

from spire_core.errors import AggregationError
from spire_core.rng import numpy_generator

SCALE = 2.0**32  # fixed point: a sum is exact up to half a step of 2**-32 for each summand
MAX_ABS_SUM = 2.0**31  # what a signed 64-bit integer holds at that scale


def masked(vector: torch.Tensor, client_id: int, cohort: Collection[int], seed: int) -> np.ndarray:
    """Return one client's vector (D,) as masked fixed-point integers, (D,) uint64.

    y_i = round(2**32 x_i) + sum_{j > i} PRG(s_ij) - sum_{j < i} PRG(s_ij)  (mod 2**64), over the
    other clients j of the cohort (Bonawitz et al. 2017, section 4). All members must pass the same
    cohort, in any order. `seed` must differ between rounds: a mask that is used twice reveals the
    difference of two vectors. Raises AggregationError for a cohort with repetitions, with fewer
    than two members or without this client, and for numbers that are not finite or so large that
    the cohort's sum could reach 2**31.
    """
    members = set(cohort)
    if len(members) != len(cohort) or len(members) < 2 or client_id not in members:
        raise AggregationError(
            f"expected a cohort of two or more different clients with client {client_id} in it, "
            f"got {sorted(cohort)}: pass the ids of all clients in the sum"
        )
    total = _to_fixed_point(vector, client_id, len(members))
    for other in members - {client_id}:
        first, second = min(client_id, other), max(client_id, other)
        rng = numpy_generator(seed, "pair_mask", first, second)
        mask = rng.integers(2**64, size=total.size, dtype=np.uint64)
        total = total + mask if client_id == first else total - mask
    return total


def _to_fixed_point(vector: torch.Tensor, client_id: int, cohort_size: int) -> np.ndarray:
    values = vector.detach().cpu().numpy().astype(np.float64)
    limit = MAX_ABS_SUM / cohort_size
    if values.ndim != 1 or not (np.abs(values) < limit).all():
        raise AggregationError(
            f"expected client {client_id}'s vector (D,) finite and within {limit:g}, got shape "
            f"{values.shape} and values outside or not finite: look for a client that diverged"
        )
    return np.rint(values * SCALE).astype(np.int64).view(np.uint64)


def unmask_sum(vectors: Sequence[np.ndarray]) -> torch.Tensor:
    """Return the sum (D,) float64 of a whole cohort's vectors, given each one's `masked` form.

    The error is at most 2**-33 per member; the order makes no difference. A missing member cannot
    be detected here and turns the result into noise of the size of 2**31, so count the members
    first. Raises AggregationError if there is no vector or if the sizes differ.
    """
    shapes = sorted({v.shape for v in vectors})
    if len(shapes) != 1 or any(v.dtype != np.uint64 for v in vectors):
        raise AggregationError(
            f"expected uint64 vectors of one size, got {len(vectors)} of shapes {shapes}: "
            "pass what masked() returned for every member of the cohort"
        )
    total = np.sum(np.stack(vectors), axis=0, dtype=np.uint64)
    return torch.from_numpy(total.view(np.int64) / SCALE)
