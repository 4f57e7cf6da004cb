"""Receiving: an update is decoded, checked and accumulated in the process where it was made.

This is the server's side, moved to the clients' process, so that updates never travel. The driver
gets a report of each client, and parts of the accumulators. In a secure sum a message is under
masks, so that this side too sees no single update.
"""

from collections.abc import Sequence

from pipeline.federation.rounds import RoundSettings
from spire_core.federated.accumulation import Accumulator, Part, UpdateSum
from spire_core.federated.compression import decompress
from spire_core.federated.integer_updates import IntegerSum
from spire_core.federated.messages import (
    Broadcast,
    ClientReport,
    ClientUpdate,
    CompressedUpdate,
    IntegerMessage,
    RoundPlan,
    UpdateFault,
)
from spire_core.federated.update_checks import CheckedUpdate, check_integers, check_update

Message = ClientUpdate | CompressedUpdate | IntegerMessage


class UpdateReceiver:
    """Receives the updates of one round at a time."""

    def __init__(self, settings: RoundSettings) -> None:
        self.settings = settings
        self._round_idx: int | None = None
        self._accumulator: Accumulator | None = None

    def receive(
        self,
        group: Sequence[int],
        messages: Sequence[Message],
        broadcast: Broadcast,
        plan: RoundPlan,
    ) -> list[ClientReport]:
        """Accumulate the updates in a group's messages and return a report of each client.

        If one has a fault, none of its group is accumulated: the whole group is asked again. A
        client that is already there stays.
        """
        ids = [message.client_id for message in messages]
        if ids != list(group):
            fault = UpdateFault(f"updates of clients {ids} instead of {list(group)}")
            return [ClientReport(client_id, fault=fault) for client_id in group]
        checked = [
            self._checked(client_id, message, broadcast, plan)
            for client_id, message in zip(group, messages, strict=True)
        ]
        usable = [one for one in checked if isinstance(one, CheckedUpdate)]
        if len(usable) == len(checked):
            self._accumulate(usable, broadcast, plan)
        return [_report(c, one) for c, one in zip(group, checked, strict=True)]

    def part(self, round_idx: int, start: int, stop: int) -> Part | None:
        """Return a stretch of what has arrived in a round, None if nothing has."""
        if self._accumulator is None or self._round_idx != round_idx:
            return None
        return self._accumulator.part(start, stop)

    def forget(self) -> None:
        """Drop all that has arrived."""
        self._round_idx = self._accumulator = None

    def _accumulate(
        self, updates: Sequence[CheckedUpdate], broadcast: Broadcast, plan: RoundPlan
    ) -> None:
        if self._accumulator is None or self._round_idx != plan.round_idx:
            self.forget()
            self._accumulator = self._empty(broadcast, plan)
            self._round_idx = plan.round_idx
        try:
            for one in updates:
                if one.update.client_id not in self._accumulator:
                    self._accumulator.accumulate(one)
        except BaseException:  # half of an update may be in it
            self.forget()
            raise

    def _empty(self, broadcast: Broadcast, plan: RoundPlan) -> Accumulator:
        settings = self.settings
        shape = settings.update_shape(plan, broadcast.weights.size)
        if plan.sums_integers:
            return IntegerSum(shape, settings.update_format(plan, broadcast).size)
        return UpdateSum(broadcast, shape)

    def _checked(
        self, client_id: int, message: Message, broadcast: Broadcast, plan: RoundPlan
    ) -> CheckedUpdate | UpdateFault:
        settings = self.settings
        known = settings.known_examples(client_id, plan)
        if plan.sums_integers:
            size = settings.update_format(plan, broadcast).size
            return check_integers(message, size, known)
        try:
            update = decompress(message, broadcast.weights, settings.client)
        except ValueError as error:
            return UpdateFault(str(error))
        shape = settings.update_shape(plan, broadcast.weights.size)
        return check_update(update, broadcast.weights[: shape.size], shape.has_moments, known)


def _report(client_id: int, checked: CheckedUpdate | UpdateFault) -> ClientReport:
    if isinstance(checked, UpdateFault):
        return ClientReport(client_id, fault=checked)
    update = checked.update
    numbers = (int(update.num_examples), update.num_steps, update.loss, update.num_bytes)
    return ClientReport(client_id, *numbers)
