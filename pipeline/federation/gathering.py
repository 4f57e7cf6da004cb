"""Gathering: the clients of a round train, and their updates are decoded and checked.

A client's fault is a task that fails or an update that the check refuses. The setting
`federation.on_client_error` decides on it:

- "retry" repeats the work of the client's group, whose numbers belong together, up to
  `pool.MAX_TRIES` times in all;
- "fail" raises the fault's error at once;
- "drop" averages without the client, and for the client the round did not happen.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.federation.pool import MAX_TRIES, ClientFailure, ClientPool, repeat_errors
from pipeline.federation.rounds import RoundSettings
from spire_core.errors import AggregationError, DivergenceError, SpireError
from spire_core.federated.messages import ClientUpdate, CompressedUpdate, RoundPlan
from spire_core.federated.server import ServerState
from spire_core.federated.update_checks import CheckedUpdate, UpdateFault, check_update

logger = logging.getLogger(__name__)
TASK = "fit_group"
Group = tuple[int, ...]
Message = ClientUpdate | CompressedUpdate
Updates = dict[int, CheckedUpdate]  # by client id


@dataclass(frozen=True)
class OpenRound:
    """A round between its broadcast and its average; `handle` is the pool's for the broadcast."""

    plan: RoundPlan
    state: ServerState
    handle: Any

    @property
    def name(self) -> str:
        """The round, for the end of a sentence."""
        return f" in round {self.plan.round_idx}"


class Gatherer:
    """Returns the updates of rounds, as `federation.on_client_error` has it."""

    def __init__(self, pool: ClientPool, settings: RoundSettings) -> None:
        self.pool, self.settings = pool, settings
        if settings.client.compression != "none":  # now, rather than while clients wait
            import spire_core.federated.compression  # noqa: F401

    def gather(self, client_ids: Sequence[int], round_: OpenRound) -> list[CheckedUpdate]:
        """Return the updates that can be averaged, by client id.

        Raises ClusterError, AggregationError or DivergenceError as the setting has it, and with
        "drop" AggregationError or DivergenceError if no update is left.
        """
        groups = self.settings.client.groups(client_ids)
        policy = self.settings.federation.on_client_error
        if policy == "drop":
            updates = self._usable(groups, round_)
        else:
            updates = self._all(groups, round_, MAX_TRIES if policy == "retry" else 1)
        return [updates[client_id] for client_id in sorted(updates)]

    def _all(self, groups: Sequence[Group], round_: OpenRound, num_tries: int) -> Updates:
        """Return the updates of all clients; raises the error of one that cannot be had."""

        def run(some: list[Group]) -> list[Updates | SpireError]:
            results = zip(some, self._train(some, round_), strict=True)
            outcomes = [self._receive(group, result, round_) for group, result in results]
            return [updates if error is None else error for updates, error in outcomes]

        merged: Updates = {}
        for updates in repeat_errors(groups, run, num_tries):
            merged |= updates
        return merged

    def _usable(self, groups: Sequence[Group], round_: OpenRound) -> Updates:
        """Return the usable updates; every other client forgets the round.

        Raises DivergenceError or AggregationError if there is none.
        """
        updates: Updates = {}
        errors: list[SpireError | None] = []
        for group, result in self._train_split(groups, round_):
            received, error = self._receive(group, result, round_)
            updates |= received
            errors.append(error)
        client_ids = [client_id for group in groups for client_id in group]
        if not updates:
            diverged = any(isinstance(error, DivergenceError) for error in errors)
            raise (DivergenceError if diverged else AggregationError)(
                f"expected at least one update that can be averaged{round_.name}, got none of "
                f"{len(client_ids)}: see the log above; lower client.lr if they are refused"
            )
        dropped = [client_id for client_id in client_ids if client_id not in updates]
        if dropped:  # the cause of the fault may also have spoiled what the client keeps
            self.pool.run_all("undo_round", dropped, round_.plan.round_idx)
        return updates

    def _train(
        self, groups: Sequence[Group], round_: OpenRound
    ) -> list[list[Message] | ClientFailure]:
        """Return the messages of each group, or its failure."""
        plan, costs = round_.plan, [self.settings.cost(round_.plan, group) for group in groups]
        return self.pool.run(TASK, groups, round_.handle, plan, costs=costs, where=round_.name)

    def _train_split(
        self, groups: Sequence[Group], round_: OpenRound
    ) -> list[tuple[Group, list[Message] | ClientFailure]]:
        """Do as `_train`, and ask the clients of a group that failed as a whole one by one.

        One client's fault must not drop the others of its group.
        """
        results = list(zip(groups, self._train(groups, round_), strict=True))
        failed = [g for g, r in results if isinstance(r, ClientFailure) and len(g) > 1]
        if not failed:
            return results
        alone = [(client_id,) for group in failed for client_id in group]
        kept = [(group, result) for group, result in results if group not in failed]
        return kept + list(zip(alone, self._train(alone, round_), strict=True))

    def _receive(
        self, group: Group, result: list[Message] | ClientFailure, round_: OpenRound
    ) -> tuple[Updates, SpireError | None]:
        """Return the usable updates of a group, and the error that its faults are."""
        if isinstance(result, ClientFailure):
            return {}, result.error(TASK, round_.name)
        checked = self._check(group, result, round_)
        updates = {c: one for c, one in checked.items() if isinstance(one, CheckedUpdate)}
        faults = {c: one for c, one in checked.items() if isinstance(one, UpdateFault)}
        for client_id, fault in faults.items():
            logger.warning("refused %s from client %d%s", fault, client_id, round_.name)
        return updates, _refusal(faults, round_) if faults else None

    def _check(
        self, group: Group, messages: Sequence[Message], round_: OpenRound
    ) -> dict[int, CheckedUpdate | UpdateFault]:
        """Return the update of each client of a group, or its fault."""
        ids = [message.client_id for message in messages]
        if ids != list(group):
            fault = UpdateFault(f"updates of clients {ids} instead of {list(group)}")
            return dict.fromkeys(group, fault)
        settings, weights = self.settings, round_.state.weights
        size = settings.shared_size if not round_.plan.shares_local else weights.size
        limits = (settings.client.opt_state == "average", settings.federation.max_update_norm)
        checked: dict[int, CheckedUpdate | UpdateFault] = {}
        for client_id, message in zip(group, messages, strict=True):
            try:
                update = self._decode(message, round_)
            except ValueError as error:
                checked[client_id] = UpdateFault(str(error))
                continue
            known = settings.num_examples[client_id]
            checked[client_id] = check_update(update, weights[:size], *limits, known)
        return checked

    def _decode(self, message: Message, round_: OpenRound) -> ClientUpdate:
        """Return the update that a message holds; ValueError, in words, for another form."""
        config = self.settings.client
        if config.compression == "none" and isinstance(message, ClientUpdate):
            return message
        from spire_core.federated.compression import decompress

        return decompress(message, round_.state.weights, config)


def _refusal(faults: Mapping[int, UpdateFault], round_: OpenRound) -> AggregationError:
    """Return the error that names the last of a group's faults."""
    client_id, fault = list(faults.items())[-1]
    diverged = any(fault.is_divergence for fault in faults.values())
    return (DivergenceError if diverged else AggregationError)(
        f"expected an update that can be averaged, got {fault} from client {client_id}"
        f"{round_.name}: lower client.lr, or set federation.on_client_error=drop"
    )
