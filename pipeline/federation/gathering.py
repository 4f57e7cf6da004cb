"""Gathering: the clients of a round train, and each of them is reported.

Their updates stay with the workers, which check and accumulate them
(`pipeline.federation.receiving`). A client's fault is a task that fails or an update that the check
refuses. The setting `federation.on_client_error` decides on it:

- "retry" repeats the work of the client's group, whose numbers belong together, up to
  `pool.MAX_TRIES` times in all;
- "fail" raises the fault's error at once;
- "drop" averages without the client, and for the client the round did not happen.

Work that the machine has no memory or no disk for is no client's fault: it has one more try, and if
that fails too, nobody is dropped and the round is an error.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline.federation.pool import MAX_TRIES, ClientPool, repeat_errors
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
    they were cut. `computed`: the group in which a client did, which is smaller where a failed one
    was asked one by one. Whoever trains again does so in it: a client's last bits depend on it.
    """

    plan: RoundPlan
    state: ServerState
    handle: Any
    groups: Sequence[Group]
    computed: dict[int, Group] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The round, for the end of a sentence."""
        return f" in round {self.plan.round_idx}"


class Gatherer:
    """Has clients train, and returns reports of those whose updates can be averaged."""

    def __init__(self, pool: ClientPool, settings: RoundSettings) -> None:
        self.pool, self.settings = pool, settings

    def gather(
        self, client_ids: Sequence[int], round_: OpenRound, has_others: bool = False
    ) -> Reports:
        """Return the reports of usable updates, which the workers have accumulated.

        Clients are asked in whole groups, so that those of a lost sum compute as they did.
        Raises ClusterError, AggregationError or DivergenceError as the setting has it, and with
        "drop" AggregationError or DivergenceError if no update is usable, unless the round has
        those of other clients.
        """
        asked, policy = set(client_ids), self.settings.federation.on_client_error
        reports = self._noise(round_) if NOISE in asked else {}
        group_of = {c: group for group in round_.groups for c in group} | round_.computed
        groups = list(dict.fromkeys(group_of[c] for c in sorted(asked - {NOISE})))
        if policy == "drop":
            return reports | self._usable(groups, round_, has_others or bool(reports))
        return reports | self._all(groups, round_, MAX_TRIES if policy == "retry" else 1)

    def _noise(self, round_: OpenRound) -> Reports:
        """Return the report of the noise, which a worker adds to its sum."""
        [[report]] = self.pool.run_all(NOISE_TASK, [NOISE], round_.handle, round_.plan)
        return {NOISE: report}

    def _all(self, groups: Sequence[Group], round_: OpenRound, num_tries: int) -> Reports:
        """Return the reports of all clients; raises the error of one that cannot be had."""

        def run(some: list[Group]) -> list[Reports | SpireError]:
            outcomes = [_sorted_out(result, round_) for result in self._train(some, round_)]
            return [reports if error is None else error for reports, error in outcomes]

        merged: Reports = {}
        for reports in repeat_errors(groups, run, num_tries):
            merged |= reports
        return merged

    def _usable(self, groups: Sequence[Group], round_: OpenRound, has_others: bool) -> Reports:
        """Return the reports of usable updates; every other client forgets the round.

        Raises DivergenceError or AggregationError if the round then has none, and ClusterError if
        the machine lacks something.
        """
        reports: Reports = {}
        errors: list[SpireError | None] = []
        for _, result in self._train_split(groups, round_):
            if isinstance(result, ClientFailure) and result.is_of_machine:
                raise result.error(TASK, round_.name)
            usable, error = _sorted_out(result, round_)
            reports |= usable
            errors.append(error)
        client_ids = [client_id for group in groups for client_id in group]
        if not reports and not has_others:
            diverged = any(isinstance(error, DivergenceError) for error in errors)
            raise (DivergenceError if diverged else AggregationError)(
                f"expected at least one update that can be averaged{round_.name}, got none of "
                f"{len(client_ids)}: see the log above; lower client.lr if they are refused"
            )
        dropped = [client_id for client_id in client_ids if client_id not in reports]
        if dropped:  # the cause of the fault may also have spoiled what the client keeps
            self.pool.run_all("undo_round", dropped, round_.plan.round_idx)
        return reports

    def _train(
        self, groups: Sequence[Group], round_: OpenRound
    ) -> list[list[ClientReport] | ClientFailure]:
        """Return the reports of each group, or its failure."""
        plan, costs = round_.plan, [self.settings.cost(round_.plan, group) for group in groups]
        more = {"costs": costs, "where": round_.name}
        results = self.pool.run(TASK, groups, round_.handle, plan, **more)
        for group, result in zip(groups, results, strict=True):
            if not isinstance(result, ClientFailure):
                round_.computed.update(dict.fromkeys(group, group))
        return results

    def _train_split(
        self, groups: Sequence[Group], round_: OpenRound
    ) -> list[tuple[Group, list[ClientReport] | ClientFailure]]:
        """Do as `_train`, and ask the clients of a group that failed as a whole one by one.

        One client's fault must not drop the others of its group. A single client is asked again
        where the machine lacked something.
        """
        results = list(zip(groups, self._train(groups, round_), strict=True))
        failures = [(g, r) for g, r in results if isinstance(r, ClientFailure)]
        failed = [g for g, r in failures if len(g) > 1 or r.is_of_machine]
        if not failed:
            return results
        alone = [(client_id,) for group in failed for client_id in group]
        kept = [(group, result) for group, result in results if group not in failed]
        return kept + list(zip(alone, self._train(alone, round_), strict=True))


def _sorted_out(
    result: list[ClientReport] | ClientFailure, round_: OpenRound
) -> tuple[Reports, SpireError | None]:
    """Return the reports of a group without faults, and the error that the faults are."""
    if isinstance(result, ClientFailure):
        return {}, result.error(TASK, round_.name)
    faulty = [report for report in result if report.fault is not None]
    for report in faulty:
        logger.warning("refused %s from client %d%s", report.fault, report.client_id, round_.name)
    usable = {report.client_id: report for report in result if report.fault is None}
    return usable, _refusal(faulty, round_) if faulty else None


def _refusal(faulty: Sequence[ClientReport], round_: OpenRound) -> AggregationError:
    """Return the error that names the last of a group's faults."""
    last = faulty[-1]
    diverged = any(report.fault and report.fault.is_divergence for report in faulty)
    return (DivergenceError if diverged else AggregationError)(
        f"expected an update that can be averaged, got {last.fault} from client {last.client_id}"
        f"{round_.name}: lower client.lr, or set federation.on_client_error=drop"
    )
