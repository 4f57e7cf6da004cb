"""Collecting: the workers' accumulators become the combined update of a round.

They are fetched stretch by stretch, so that the driver holds a few vectors of the model's size,
whatever the cohort and the number of workers. Workers keep them until the next round. A worker that
is lost takes its clients' updates with it: these clients are computed again, to the same bits.
"""

import logging
from collections.abc import Collection, Sequence

import numpy as np

from pipeline.federation.gathering import Gatherer, OpenRound, Reports
from pipeline.federation.pool import MAX_TRIES
from pipeline.federation.secure_sums import SecureSums
from spire_core.errors import ClusterError
from spire_core.federated.accumulation import MeanUpdate, Part, combine, joined, stretch_size
from spire_core.federated.integer_updates import combine_integers
from spire_core.federated.private_updates import NOISE

logger = logging.getLogger(__name__)


class Collector:
    """Returns the combined updates of rounds; masks come off when a sum is complete."""

    def __init__(self, gatherer: Gatherer, secure_sums: SecureSums) -> None:
        self.gatherer, self.secure_sums = gatherer, secure_sums
        self.pool, self.settings = gatherer.pool, gatherer.settings

    def collect(self, reports: Reports, round_: OpenRound) -> tuple[MeanUpdate, Reports]:
        """Return the combined update of the reported clients, and the reports of those in it.

        Clients whose updates are lost are computed again. Raises the errors of `Gatherer.gather`,
        and ClusterError if updates are lost again and again.
        """
        for num_tries in range(1, MAX_TRIES + 1):
            stretches, lost = self._stretches(reports, round_)
            if not lost:
                return self._finished(stretches, reports, round_), reports
            if num_tries == MAX_TRIES:
                break
            logger.warning("%d updates%s are lost: computed again", len(lost), round_.name)
            kept = {c: report for c, report in reports.items() if c not in lost}
            reports = kept | self.gatherer.gather(sorted(lost), round_)
        cause, remedy = self.pool.last_loss
        raise ClusterError(
            f"expected the updates{round_.name} to be kept until they are averaged, got them lost "
            f"{MAX_TRIES} times, at last by {cause}: {remedy}; spire resume goes on from the last "
            "checkpoint"
        )

    def _finished(
        self, stretches: Sequence[tuple], reports: Reports, round_: OpenRound
    ) -> MeanUpdate:
        """Return the combined update whose stretches, in order, are these."""
        if not round_.plan.sums_integers:
            return joined(stretches)
        total = np.concatenate([numbers for (numbers,) in stretches])
        if round_.plan.masking is not None:
            present = reports.keys() - {NOISE}  # noise joins the sum before its masks come off
            total = self.secure_sums.close(round_.plan.masking, total, present)
        num_examples = sum(report.num_examples for report in reports.values())
        form = self.settings.update_format(round_.plan, round_.state.broadcast)
        return form.decode(total, num_examples)

    def _stretches(
        self, reports: Reports, round_: OpenRound
    ) -> tuple[list[tuple], Collection[int]]:
        """Return the combined stretches, or else the clients whose updates are lost."""
        plan, size = round_.plan, 0
        shape = self.settings.update_shape(plan, round_.state.weights.size)
        if plan.sums_integers:
            size = self.settings.update_format(plan, round_.state.broadcast).size
        step = stretch_size(shape, self.pool.num_workers)
        stretches = []
        for start in range(0, size or shape.size, step):
            found = self.pool.each("round_part", plan.round_idx, start, start + step)
            parts = [part for part in found if part is not None]
            lost = self._lost(parts, reports)
            if lost:
                return [], lost
            stretches.append((combine_integers(parts),) if size else combine(parts))
        return stretches, ()

    def _lost(self, parts: Sequence[Part], reports: Reports) -> Collection[int]:
        """Return the clients that are in no part.

        Those are all, and every worker starts anew, if a client is in two parts: its answer was
        lost, and another worker computed it again.
        """
        found = [client_id for part in parts for client_id in part.client_ids]
        if len(set(found)) == len(found) and set(found) <= reports.keys():
            return reports.keys() - set(found)
        self.pool.each("forget_round")
        return list(reports)
