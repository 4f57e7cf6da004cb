"""The running sum of a round's updates, in any grouping, and the mean that it becomes.

Each process has one, for the clients that it computes. `UpdateSum` adds updates as they are.
`HiddenSum` adds integers modulo 2^64: all that a server sees of a round with secure aggregation or
with differential privacy. A number a with weight n becomes the integer nearest to n a / 2^u, with
the unit of `exact_sum` in one level. Adam's first moments are then rounded to zero and its second
moments up, so that no second moment becomes zero beside a nonzero first one.

S: length of the shared weights.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from spire_core.errors import DivergenceError
from spire_core.federated.exact_sum import ExactSum, top_of
from spire_core.federated.messages import AdamMoments, Broadcast, ClientUpdate
from spire_core.methods import NETWORK_PARTS

TOPS = (10, 6, 12, 24)  # exponents in a first round: of weights, both moments and steps
VECTOR_UNIT = -32  # exponent, of plain vectors such as embeddings
ROUNDINGS = {"nearest": np.rint, "to_zero": np.trunc, "up": np.ceil}


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


class UpdateSum:
    """The exact sum of updates, weighted by examples (FedAvg; McMahan et al. 2017)."""

    def __init__(self, broadcast: Broadcast, total_examples: int) -> None:
        """Take the message that clients have begun with; examples are those of all together."""
        self.client_ids: list[int] = []
        self.num_examples = 0
        self.sums: list[ExactSum] = []
        handed_out = (broadcast.weights, *_moments(broadcast))
        self._tops = [top_of(*pair) for pair in zip(handed_out, TOPS, strict=True)]
        self._total_examples = total_examples

    def add(self, update: ClientUpdate) -> None:
        """Add an update; DivergenceError, with its client, for one that is not finite."""
        if not math.isfinite(update.loss):
            raise _diverged(update.client_id, f"a loss of {update.loss}")
        if not self.sums:
            pairs = zip(update.arrays, self._tops, strict=False)  # weights, maybe moments
            self.sums = [ExactSum(a.size, top, self._total_examples) for a, top in pairs]
        try:
            for total, array in zip(self.sums, update.arrays, strict=True):
                total.add(array, update.num_examples)
        except DivergenceError as error:
            raise _diverged(update.client_id, str(error)) from error
        self.client_ids.append(update.client_id)
        self.num_examples += update.num_examples

    def merge(self, other: "UpdateSum") -> None:
        """Add a sum over other clients; neither is that of nobody."""
        for total, more in zip(self.sums, other.sums, strict=True):
            total.merge(more)
        self.client_ids += other.client_ids
        self.num_examples += other.num_examples

    def mean(self) -> MeanUpdate:
        """Return the mean update."""
        weights, *moments = (total.mean(self.num_examples) for total in self.sums)
        return MeanUpdate(weights, AdamMoments(*moments) if moments else None)


class HiddenSum:
    """The sum of clients' integers (n,) modulo 2^64: exact, in any order and grouping."""

    def __init__(self, size: int) -> None:
        self.client_ids: list[int] = []
        self.num_examples = 0
        self.numbers = np.zeros(size, dtype=np.uint64)

    def add(self, client_id: int, num_examples: int, numbers: np.ndarray) -> None:
        """Add a client's integers (n,) uint64, in which its weight is counted already."""
        self.numbers += numbers
        self.client_ids.append(client_id)
        self.num_examples += num_examples

    def merge(self, other: "HiddenSum") -> None:
        """Add a sum over other clients."""
        self.numbers += other.numbers
        self.client_ids += other.client_ids
        self.num_examples += other.num_examples


def _moments(broadcast: Broadcast) -> Sequence[np.ndarray | None]:
    return (None, None, None) if broadcast.moments is None else broadcast.moments.arrays


def _diverged(client_id: int, reason: str) -> DivergenceError:
    return DivergenceError(
        f"expected an update that can be averaged, got {reason} from client {client_id}: "
        "lower client.lr"
    )


@dataclass(frozen=True)
class FixedPoint:
    """Numbers |a| < 2^top, whose weights add up to less than 2^shift, as integers modulo 2^64."""

    top: int
    shift: int
    rounding: str = "nearest"

    @property
    def unit(self) -> int:
        """The exponent of the unit."""
        return self.top + self.shift - 62

    def encode(self, numbers: np.ndarray, weight: int = 1) -> np.ndarray:
        """Return weighted numbers (n,) as uint64; DivergenceError if they do not fit."""
        if not np.abs(numbers).max(initial=0.0) < math.ldexp(1.0, self.top):
            raise DivergenceError(f"numbers that are not finite and below 2^{self.top}")
        scaled = numbers.astype(np.float64) * math.ldexp(weight, -self.unit)
        return ROUNDINGS[self.rounding](scaled).astype(np.int64).view(np.uint64)

    def decode(self, total: np.ndarray) -> np.ndarray:
        """Return a sum (n,) of such integers as float64."""
        return total.view(np.int64) * math.ldexp(1.0, self.unit)


def vector_form(num_members: int) -> FixedPoint:
    """Return the form of vectors in a sum of so many: in steps of 2^-32, below 2^29 / members."""
    shift = num_members.bit_length()
    return FixedPoint(62 + VECTOR_UNIT - shift, shift)


# Of weights, both moments and steps: margin in bits, top if nothing was handed out, rounding.
KINDS = ((6, 6, "nearest"), (10, 8, "to_zero"), (20, 16, "up"), (20, 32, "nearest"))
LOSS_TOP = 20


class SecureFormat:
    """The integers of a round's updates, and back: `size` of them, a weighted sum.

    The loss is among them, so that the mean loss is known and no single one.
    """

    def __init__(
        self, broadcast: Broadcast, size: int, has_moments: bool, total_examples: int
    ) -> None:
        """Take the length of the shared weights; examples are those of all clients together."""
        handed_out = (broadcast.weights[:size], *_moments(broadcast))
        shift = total_examples.bit_length()
        self.forms = [
            FixedPoint(top_of(array, otherwise, margin), shift, rounding)
            for array, (margin, otherwise, rounding) in zip(handed_out, KINDS, strict=True)
        ][: 4 if has_moments else 1]
        self.forms.append(FixedPoint(LOSS_TOP, shift))
        self.sizes = (size, size, size, len(NETWORK_PARTS), 1) if has_moments else (size, 1)
        self.size = sum(self.sizes)

    def encode(self, update: ClientUpdate) -> np.ndarray:
        """Return an update as integers (size,) uint64; DivergenceError, with its client, if not."""
        arrays, weight = (*update.arrays, np.array([update.loss])), update.num_examples
        try:
            pairs = zip(self.forms, arrays, strict=True)
            return np.concatenate([form.encode(array, weight) for form, array in pairs])
        except DivergenceError as error:
            raise _diverged(update.client_id, str(error)) from error

    def decode(self, total: HiddenSum) -> MeanUpdate:
        """Return the mean update of a sum."""
        pieces = np.split(total.numbers, np.cumsum(self.sizes)[:-1])
        pairs = zip(self.forms, pieces, strict=True)
        means = [form.decode(piece) / total.num_examples for form, piece in pairs]
        weights, *moments = (mean.astype(np.float32) for mean in means[:-1])
        return MeanUpdate(weights, AdamMoments(*moments) if moments else None, float(means[-1][0]))
