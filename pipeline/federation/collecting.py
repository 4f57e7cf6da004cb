"""Sums over clients that stay with the workers: each client is in them exactly once."""

import logging
from collections.abc import Callable, Sequence
from typing import Any

from pipeline.federation.pool import MAX_TRIES, ClientPool
from spire_core.errors import ClusterError
from spire_core.federated.private_updates import NOISE

logger = logging.getLogger(__name__)
Group = tuple[int, ...]


def collect(
    pool: ClientPool,
    groups: Sequence[Group],
    compute: Callable[[Sequence[Group]], None],
    gather: Callable[[], Any],
) -> Any:
    """Return what `gather` does of a sum in which each client of the groups is once.

    `compute` has workers compute groups, whose clients each add to a running sum. A worker that is
    lost takes its sum with it: its groups are computed again, to the same bits. Where a client is
    there twice, since its answer was lost, all sums begin anew. ClusterError if sums are lost again
    and again.
    """
    wanted, left = {c for group in groups for c in group}, groups
    for _ in range(MAX_TRIES):
        compute(left)
        total = gather()
        found = [] if total is None else [c for c in total.client_ids if c != NOISE]
        if len(found) == len(wanted) and set(found) == wanted:
            return total
        if len(set(found)) < len(found) or not set(found) <= wanted:
            list(pool.each("forget_sum"))
            found = []
        left = [group for group in groups if not set(group) <= set(found)]
        logger.warning("the sums of %d groups of clients are lost: computed again", len(left))
    raise ClusterError(
        f"expected the sums of clients to be kept until they are averaged, got them lost "
        f"{MAX_TRIES} times: see the log above; spire resume goes on from the last checkpoint"
    )
