"""The server's side of secure sums over a client pool (`spire_core.secure_sum.protocol`).

It passes on public keys and sealed shares, and takes the masks off a sum that is complete.
"""

import logging
from collections.abc import Collection, Sequence

import numpy as np

from pipeline.federation.pool import ClientPool
from pipeline.federation.work import ClientFailure
from spire_core.secure_sum.protocol import SumPlan, require_threshold, unmasked

logger = logging.getLogger(__name__)


def added(vectors: Sequence[np.ndarray]) -> np.ndarray:
    """Return the sum (n,) modulo 2^64 of masked vectors (n,) uint64, without a copy of them."""
    total = np.zeros_like(vectors[0])
    for vector in vectors:
        total += vector
    return total


class SecureSums:
    """Opens secure sums one at a time, and unmasks them."""

    def __init__(self, pool: ClientPool) -> None:
        self.pool = pool
        self._sealed: dict[int, dict[int, bytes]] = {}  # by the client that holds the shares

    def open(self, name: str, client_ids: Collection[int]) -> SumPlan:
        """Return the plan of a sum of these clients; `name` is that of no other sum.

        Raises ClusterError if a client does not take part.
        """
        members = sorted(client_ids)
        keys = self.pool.run_all("advertise_keys", members, name)
        plan = SumPlan(name, dict(zip(members, keys, strict=True)))
        self._sealed = {member: {} for member in members}
        for owner, shares in zip(
            members, self.pool.run_all("share_keys", members, plan), strict=True
        ):
            for holder, sealed in shares.items():
                self._sealed[holder][owner] = sealed
        return plan

    def close(self, plan: SumPlan, total: np.ndarray, remaining: Collection[int]) -> np.ndarray:
        """Return the sum (n,) uint64 without masks of the clients that are in it.

        Clients that do not answer any more are done without. AggregationError if too few are left.
        """
        present = sorted(remaining)
        require_threshold(plan, present)
        sealed = [(self._sealed[client_id],) for client_id in present]
        answers = self.pool.run("reveal_shares", present, plan, frozenset(present), per_unit=sealed)
        revealed = {
            client_id: shares
            for client_id, shares in zip(present, answers, strict=True)
            if not isinstance(shares, ClientFailure)
        }
        if missing := len(present) - len(revealed):
            logger.warning("%d clients of the sum %s reveal no shares", missing, plan.name)
        return unmasked(total, plan, present, revealed)
