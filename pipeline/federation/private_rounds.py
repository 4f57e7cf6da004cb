"""Rounds with differential privacy: the server's side of the promise to clients.

The server is trusted with the clients' clipped changes, as in all central differential privacy, and
publishes noisy sums alone. Noise and cohorts come from the run's secret key, which a worker reads:
the noise joins the sum there, so that the driver never holds one without it.
"""

from dataclasses import replace

import numpy as np

from pipeline.federation.pool import ClientPool
from pipeline.federation.rounds import RoundStats
from spire_core.federated.messages import RoundPlan
from spire_core.federated.private_updates import NOISE
from spire_core.federated.server import ServerState
from spire_core.federated.sums import MeanUpdate
from spire_core.privacy.guarantee import RoundsGuarantee


class PrivateRounds:
    """Draws private cohorts, and keeps account of what is published."""

    def __init__(self, pool: ClientPool, guarantee: RoundsGuarantee) -> None:
        self.pool, self.guarantee = pool, guarantee

    def cohort(self, state: ServerState) -> list[int]:
        """Return the next round's clients: each drawn by itself, maybe none.

        Raises BudgetError if the round would exceed the budget.
        """
        self.guarantee.check(_num_releases(state))
        [cohort] = self.pool.run_all("private_cohort", [NOISE], state.round_idx)
        return cohort

    def plan(self, plan: RoundPlan, state: ServerState) -> RoundPlan:
        """Return the plan of a round with its clip norm and noise."""
        return replace(plan, private=self.guarantee.round(clip_norm_of(self.guarantee, state)))

    def after(self, state: ServerState, before: ServerState, mean: MeanUpdate) -> ServerState:
        """Return the state after a round, in which one more sum is published."""
        before_norm = clip_norm_of(self.guarantee, before)
        clip_norm = self.guarantee.next_clip(before_norm, mean.share_within)
        releases = _num_releases(before) + 1
        return replace(state, clip_norm=np.array([clip_norm]), releases=np.array([float(releases)]))

    def stats(self, stats: RoundStats, num_bytes: int, broadcast_bytes: int) -> RoundStats:
        """Return the record of a round without anything that tells who took part.

        Bytes are those of a cohort of the expected size.
        """
        up_bytes, down_bytes = (
            self.guarantee.cohort_size * n for n in (num_bytes, broadcast_bytes)
        )
        hidden = {"loss": None, "num_steps": 0, "num_dropped": 0}
        return replace(stats, up_bytes=up_bytes, down_bytes=down_bytes, **hidden)


def clip_norm_of(guarantee: RoundsGuarantee, state: ServerState) -> float:
    """Return the clip norm of the round after a state."""
    return guarantee.clip_norm if state.clip_norm is None else float(state.clip_norm[0])


def _num_releases(state: ServerState) -> int:
    return 0 if state.releases is None else int(state.releases[0])
