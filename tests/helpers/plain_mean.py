"""The mean of updates that are all here, as a server would have it."""

from collections.abc import Sequence

from spire_core.federated.messages import Broadcast, ClientUpdate
from spire_core.federated.sums import MeanUpdate, UpdateShape, UpdateSum


def average(updates: Sequence[ClientUpdate], broadcast: Broadcast) -> MeanUpdate:
    """Return the mean of some updates; the first says which arrays there are."""
    total = sum(update.num_examples for update in updates)
    shape = UpdateShape(updates[0].weights.size, updates[0].moments is not None, total)
    whole = UpdateSum(broadcast, shape)
    for update in updates:
        whole.add(update)
    return whole.mean()
