"""The mean of updates that are all here, as a server would have it."""

from collections.abc import Sequence

from spire_core.federated.messages import Broadcast, ClientUpdate
from spire_core.federated.sums import MeanUpdate, UpdateSum


def average(updates: Sequence[ClientUpdate], broadcast: Broadcast) -> MeanUpdate:
    """Return the mean of some updates; the first says which arrays there are."""
    whole = UpdateSum(broadcast, sum(update.num_examples for update in updates))
    for update in updates:
        whole.add(update)
    return whole.mean()
