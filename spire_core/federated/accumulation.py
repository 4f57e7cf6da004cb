"""Accumulation of a round's checked updates, piece by piece and in any grouping, and their mean.

Updates are accumulated where they arrive, each worker's in a sum of its own, whose memory does not
grow with the clients. The parts of all sums are combined stretch by stretch, so that nobody holds
the cohort's sums at once.

S: length of the shared weights, n: numbers of a stretch.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from spire_core.errors import AggregationError
from spire_core.federated.exact_sum import ExactSum, PartialSum, Scale
from spire_core.federated.messages import (
    AdamMoments,
    Broadcast,
    ClientUpdate,
    IntegerMessage,
    UpdateFault,
)
from spire_core.federated.update_checks import CheckedUpdate, check_update
from spire_core.methods import NETWORK_PARTS

STRETCH_BYTES = 1 << 26  # of all parts of a stretch together
TOPS = (0, -6, -20, 10)  # exponents of what is large in a first round: weights, moments, steps
NOTHING = "expected at least one update with examples, got none: there is nothing to average"
SUM_BYTES = 16  # of a number in a sum: its first level, and room for some pages of the others


@dataclass(frozen=True)
class UpdateShape:
    """The arrays of a round's updates.

    `size`: S. `total_examples`: an upper bound on the examples of all clients together.
    """

    size: int
    has_moments: bool
    total_examples: int

    @property
    def sizes(self) -> tuple[int, ...]:
        """The lengths of the arrays: weights and, with moments, both of them and the steps."""
        moments = (self.size, self.size, len(NETWORK_PARTS))
        return (self.size, *moments) if self.has_moments else (self.size,)


@dataclass(frozen=True)
class MeanUpdate:
    """The combined update of a round: weights (S,) float32, and moments if they are averaged.

    `loss`: the mean training loss, where single clients' losses are not known. `share_within`: the
    noisy share of clients whose change was within the clip norm, if it is asked for.
    """

    weights: np.ndarray
    moments: AdamMoments | None = None
    loss: float | None = None
    share_within: float | None = None


@dataclass(frozen=True)
class SumPart:
    """A stretch of a sum, and the clients in it."""

    client_ids: tuple[int, ...]
    num_examples: int
    sums: tuple[PartialSum, ...]


@dataclass(frozen=True)
class IntegerPart:
    """A stretch (n,) uint64 of a sum of integers modulo 2^64, and the clients in it."""

    client_ids: tuple[int, ...]
    numbers: np.ndarray


Part = SumPart | IntegerPart


class Accumulator(ABC):
    """A round's updates as far as they have arrived here."""

    def __init__(self, shape: UpdateShape) -> None:
        self.shape, self.num_examples = shape, 0
        self._clients: dict[int, None] = {}  # in the order of their arrival

    def __contains__(self, client_id: int) -> bool:
        return client_id in self._clients

    @property
    def client_ids(self) -> tuple[int, ...]:
        """The clients whose updates are here."""
        return tuple(self._clients)

    def accumulate(self, checked: CheckedUpdate) -> None:
        """Add an update.

        AggregationError if one of the same client is there, or if the examples exceed the bound.
        """
        client_id, num_examples = checked.update.client_id, int(checked.update.num_examples)
        if client_id in self:
            raise AggregationError(
                f"expected one update per client, got a second one of client {client_id}: "
                "count each client once"
            )
        if self.num_examples + num_examples > self.shape.total_examples:
            raise AggregationError(
                f"expected updates of {self.shape.total_examples} examples at most, got "
                f"{self.num_examples + num_examples} with those of client {client_id}: plan the "
                "round for all of its clients"
            )
        self._add(checked.update)
        self._clients[client_id] = None
        self.num_examples += num_examples

    @abstractmethod
    def _add(self, update: ClientUpdate | IntegerMessage) -> None:
        """Add an update's arrays."""

    @abstractmethod
    def part(self, start: int, stop: int) -> Part:
        """Return a stretch of the arrays; those that are shorter than it end before."""


class UpdateSum(Accumulator):
    """The exact sum of updates, weighted by examples (FedAvg; McMahan et al. 2017)."""

    def __init__(self, broadcast: Broadcast, shape: UpdateShape) -> None:
        """Start at zero; numbers are expected to be about as large as those of the broadcast."""
        super().__init__(shape)
        moments = (None, None, None) if broadcast.moments is None else broadcast.moments.arrays
        expected = (broadcast.weights, *moments)
        self._sums = tuple(
            ExactSum(size, Scale.of(array, shape.total_examples, top))
            for size, array, top in zip(shape.sizes, expected, TOPS, strict=False)
        )

    def _add(self, update: ClientUpdate | IntegerMessage) -> None:
        for total, array in zip(self._sums, update.arrays, strict=True):
            total.add(array, int(update.num_examples))

    def part(self, start: int, stop: int) -> SumPart:
        sums = tuple(total.part(start, stop) for total in self._sums)
        return SumPart(self.client_ids, self.num_examples, sums)


def stretch_size(shape: UpdateShape, num_workers: int) -> int:
    """Return the length of stretches whose parts, of all workers, take `STRETCH_BYTES` or so."""
    arrays = 3 if shape.has_moments else 1
    return max(1 << 10, STRETCH_BYTES // (arrays * SUM_BYTES * num_workers))


def combine(parts: Sequence[Part]) -> tuple[np.ndarray, ...]:
    """Return a stretch of each array of the mean update, weighted by examples, as float32 (n,).

    AggregationError if there is nothing to average.
    """
    filled = [part for part in parts if isinstance(part, SumPart) and part.client_ids]
    if not filled:
        raise AggregationError(NOTHING)
    num_examples = sum(part.num_examples for part in filled)
    totals = filled[0].sums
    for part in filled[1:]:
        totals = tuple(one + other for one, other in zip(totals, part.sums, strict=True))
    return tuple(total.mean(num_examples) for total in totals)


def average(updates: Sequence[ClientUpdate], broadcast: Broadcast) -> MeanUpdate:
    """Return the mean update of clients that are all here.

    The first says which arrays there are. AggregationError without any, or for one with a fault.
    """
    if not updates:
        raise AggregationError(NOTHING)
    first = updates[0]
    has_moments, before = first.moments is not None, broadcast.weights[: np.size(first.weights)]
    checked = [check_update(update, before, has_moments) for update in updates]
    for update, one in zip(updates, checked, strict=True):
        if isinstance(one, UpdateFault):
            raise AggregationError(
                f"expected an update that can be averaged, got {one} from client "
                f"{update.client_id}: lower client.lr, or leave this client out"
            )
    shape = UpdateShape(before.size, has_moments, sum(int(u.num_examples) for u in updates))
    total = UpdateSum(broadcast, shape)
    for one in checked:
        if isinstance(one, CheckedUpdate):
            total.accumulate(one)
    return joined([combine([total.part(0, shape.size)])])


def joined(stretches: Sequence[tuple[np.ndarray, ...]]) -> MeanUpdate:
    """Return the combined update whose stretches, in order, are these."""
    weights, *moments = (np.concatenate(arrays) for arrays in zip(*stretches, strict=True))
    return MeanUpdate(weights, AdamMoments(*moments) if moments else None)
