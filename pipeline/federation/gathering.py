"""Gathering: the clients of a round train, and each of them is reported.

Their updates stay with the workers, which check and accumulate them
(`pipeline.federation.receiving`). A client's fault is a task that fails or an update that the check
refuses. The work of the client's group, whose numbers belong together, is then repeated, up to
`pool.MAX_TRIES` times in all.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.federation.pool import ClientPool, repeat_errors
from pipeline.federation.rounds import RoundSettings
from pipeline.federation.work import ClientFailure
from spire_core.errors import AggregationError, DivergenceError, SpireError
from spire_core.federated.messages import ClientReport, RoundPlan
from spire_core.federated.private_updates import NOISE
from spire_core.federated.server import ServerState

logger = logging.getLogger(__name__)
TASK, NOISE_TASK = "fit_group", "add_noise"
Group = tuple[int, ...]
Reports = dict[int, ClientReport]  # by client id


@dataclass(frozen=True)
class OpenRound:
    """A round between its broadcast and its average.

    `handle` is the pool's for the broadcast, `groups` are the clients that compute together, as
    they were cut. Whoever trains again does so in its group: a client's last bits depend on it.
    """

    plan: RoundPlan
    state: ServerState
    handle: Any
    groups: Sequence[Group]

    @property
    def name(self) -> str:
        """The round, for the end of a sentence."""
        return f" in round {self.plan.round_idx}"


class Gatherer:
    """Has clients train, and returns reports of those whose updates can be averaged."""

    def __init__(self, pool: ClientPool, settings: RoundSettings) -> None:
        self.pool, self.settings = pool, settings

    def gather(self, client_ids: Sequence[int], round_: OpenRound) -> Reports:
        """Return the reports of all clients, whose updates the workers have accumulated.

        Clients are asked in whole groups, so that those of a lost sum compute as they did.
        Raises the ClusterError, AggregationError or DivergenceError of one that cannot be had.
        """
        asked = set(client_ids)
        reports = self._noise(round_) if NOISE in asked else {}
        group_of = {c: group for group in round_.groups for c in group}
        groups = list(dict.fromkeys(group_of[c] for c in sorted(asked - {NOISE})))

        def run(some: list[Group]) -> list[Reports | SpireError]:
            return [_sorted_out(result, round_) for result in self._train(some, round_)]

        for found in repeat_errors(groups, run):
            reports |= found
        return reports

    def _noise(self, round_: OpenRound) -> Reports:
        """Return the report of the noise, which a worker adds to its sum."""
        [[report]] = self.pool.run_all(NOISE_TASK, [NOISE], round_.handle, round_.plan)
        return {NOISE: report}

    def _train(
        self, groups: Sequence[Group], round_: OpenRound
    ) -> list[list[ClientReport] | ClientFailure]:
        """Return the reports of each group, or its failure."""
        plan, costs = round_.plan, [self.settings.cost(round_.plan, group) for group in groups]
        return self.pool.run(TASK, groups, round_.handle, plan, costs=costs, where=round_.name)


def _sorted_out(
    result: list[ClientReport] | ClientFailure, round_: OpenRound
) -> Reports | SpireError:
    """Return the reports of a group, or the error that its faults are."""
    if isinstance(result, ClientFailure):
        return result.error(TASK, round_.name)
    faulty = [report for report in result if report.fault is not None]
    for report in faulty:
        logger.warning("refused %s from client %d%s", report.fault, report.client_id, round_.name)
    if faulty:
        return _refusal(faulty, round_)
    return {report.client_id: report for report in result}


def _refusal(faulty: Sequence[ClientReport], round_: OpenRound) -> AggregationError:
    """Return the error that names the last of a group's faults."""
    last = faulty[-1]
    diverged = any(report.fault and report.fault.is_divergence for report in faulty)
    return (DivergenceError if diverged else AggregationError)(
        f"expected an update that can be averaged, got {last.fault} from client {last.client_id}"
        f"{round_.name}: lower client.lr"
    )
