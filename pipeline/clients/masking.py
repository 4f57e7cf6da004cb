"""The clients' side of secure sums: their keys and shares, and their numbers under masks.

All secrets of a client follow from the run's mask key, so that any worker takes any step of a
client, and a repeated step gives what it gave before.
"""

from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from pipeline.federation.rounds import RoundSettings
from pipeline.runs.mask_key import client_secrets
from spire_core.errors import AggregationError
from spire_core.federated.compression import decompress
from spire_core.federated.messages import (
    Broadcast,
    ClientUpdate,
    CompressedUpdate,
    IntegerMessage,
    RoundPlan,
    UpdateFault,
)
from spire_core.secure_sum.fixed_point import vector_form
from spire_core.secure_sum.keys import PublicKeys
from spire_core.secure_sum.protocol import (
    SumPlan,
    masked,
    revealed_shares,
    sealed_shares,
)


class MaskingClients:
    """Takes clients' steps in secure sums, with the key in the run's folder."""

    def __init__(self, folder: Path, settings: RoundSettings) -> None:
        self.folder, self.settings = folder, settings

    def public_keys(self, client_id: int, sum_name: str) -> PublicKeys:
        return client_secrets(self.folder, sum_name, client_id).public

    def shares(self, client_id: int, plan: SumPlan) -> dict[int, bytes]:
        """Return the shares of a client's secrets, sealed for each holder."""
        return sealed_shares(client_secrets(self.folder, plan.name, client_id), plan)

    def reveal(
        self,
        client_id: int,
        plan: SumPlan,
        remaining: Collection[int],
        sealed: dict[int, bytes],
    ) -> dict[int, bytes]:
        """Return the shares that a client reveals when the sum of these clients is there."""
        secrets = client_secrets(self.folder, plan.name, client_id)
        return revealed_shares(secrets, plan, sealed, remaining)

    def vector(self, client_id: int, vector: Tensor, plan: SumPlan) -> np.ndarray:
        """Return a client's vector (D,) as masked integers (D,) uint64."""
        values, form = vector.detach().cpu().numpy(), vector_form(len(plan.keys))
        if not form.fits(values):
            raise AggregationError(
                f"expected client {client_id}'s vector finite and within {form.limit:g}, got other "
                "values: look for a client that diverged"
            )
        secrets = client_secrets(self.folder, plan.name, client_id)
        return masked(form.encode(values), secrets, plan)

    def messages(
        self,
        updates: Sequence[ClientUpdate | CompressedUpdate],
        broadcast: Broadcast,
        plan: RoundPlan,
    ) -> list[IntegerMessage]:
        """Return the summands of a round that stand for these updates."""
        return [self._message(update, broadcast, plan) for update in updates]

    def _message(
        self, sent: ClientUpdate | CompressedUpdate, broadcast: Broadcast, plan: RoundPlan
    ) -> IntegerMessage:
        update = decompress(sent, broadcast.weights, self.settings.client)  # it is as it was
        form, client_id = self.settings.update_format(plan, broadcast), update.client_id
        weight = self.settings.known_examples(client_id, plan)
        numbers = form.encode(update, weight)
        fields = (client_id, weight, update.num_steps)
        if isinstance(numbers, UpdateFault):
            return IntegerMessage(*fields, np.zeros(0, dtype=np.uint64), numbers)
        if plan.masking is not None:
            secrets = client_secrets(self.folder, plan.masking.name, client_id)
            numbers = masked(numbers, secrets, plan.masking)
        return IntegerMessage(*fields, numbers)
