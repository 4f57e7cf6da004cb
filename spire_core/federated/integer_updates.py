"""Updates as integers modulo 2^64, and their sum: all that a server sees of a round.

An update becomes one vector (n,) uint64: its weights, moments if they are averaged, and the loss,
so that the mean loss is known and no single one. Each number is in one fixed-point level
(`spire_core.secure_sum.fixed_point`), whose range follows from what the server has handed out:
2^`margin` times its largest number. A client whose numbers do not fit refuses them.

Adam's first moments are rounded to zero and its second moments up, so that no second moment becomes
zero beside a nonzero first one and Adam's steps stay bounded. S: length of the shared weights.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from spire_core.errors import AggregationError
from spire_core.federated.accumulation import (
    NOTHING,
    Accumulator,
    IntegerPart,
    MeanUpdate,
    Part,
    UpdateShape,
)
from spire_core.federated.messages import (
    AdamMoments,
    Broadcast,
    ClientUpdate,
    IntegerMessage,
    UpdateFault,
)
from spire_core.federated.update_checks import fault_of
from spire_core.secure_sum.fixed_point import FixedPoint


@dataclass(frozen=True)
class Kind:
    """How an array travels: margin in bits, top if nothing was handed out, rounding."""

    name: str
    margin: int
    otherwise: int
    rounding: str = "nearest"


WEIGHTS = Kind("weights", 6, 6)
MOMENTS = (
    Kind("exp_avg", 10, 8, "to_zero"),
    Kind("exp_avg_sq", 20, 16, "up"),
    Kind("steps", 20, 32),
)
LOSS = Kind("loss", 0, 20)


class UpdateFormat:
    """The integers of a round's updates, and back: `size` of them, a weighted sum."""

    def __init__(self, broadcast: Broadcast, shape: UpdateShape) -> None:
        self.shape, self.before = shape, broadcast.weights[: shape.size]
        moments = (None, None, None) if broadcast.moments is None else broadcast.moments.arrays
        kinds = (WEIGHTS, *MOMENTS) if shape.has_moments else (WEIGHTS,)
        shift = shape.total_examples.bit_length()
        handed_out = (self.before, *moments)[: len(kinds)]
        self.kinds = (*kinds, LOSS)
        self.forms = [
            FixedPoint(_top(kind, array), shift, kind.rounding)
            for kind, array in zip(self.kinds, (*handed_out, None), strict=True)
        ]
        self.sizes = (*shape.sizes, 1)
        self.size = sum(self.sizes)

    def encode(self, update: ClientUpdate, num_examples: int) -> np.ndarray | UpdateFault:
        """Return a client's own update as integers (size,), or the reason not to send it."""
        fault = fault_of(update, self.before, self.shape.has_moments, num_examples)
        if fault is not None:
            return fault
        arrays = (*update.arrays, np.array([update.loss]))
        for kind, form, array in zip(self.kinds, self.forms, arrays, strict=True):
            if not form.fits(array):
                text = f"{kind.name} beyond the sum's limit of {form.limit:g}"
                return UpdateFault(text, is_divergence=True)
        return np.concatenate(
            [f.encode(a, num_examples) for f, a in zip(self.forms, arrays, strict=True)]
        )

    def decode(self, total: np.ndarray, num_examples: int) -> MeanUpdate:
        """Return the mean update of a sum (size,) over so many examples."""
        if not num_examples:
            raise AggregationError(NOTHING)
        pieces = np.split(total, np.cumsum(self.sizes)[:-1])
        means = [f.decode(t) / num_examples for f, t in zip(self.forms, pieces, strict=True)]
        weights, *moments = (mean.astype(np.float32) for mean in means[:-1])
        averaged = AdamMoments(*moments) if moments else None
        return MeanUpdate(weights, averaged, float(means[-1][0]))


def _top(kind: Kind, handed_out: np.ndarray | None) -> int:
    largest = 0.0 if handed_out is None else float(np.abs(handed_out).max(initial=0.0))
    return math.frexp(largest)[1] + kind.margin if largest > 0 else kind.otherwise


class IntegerSum(Accumulator):
    """The sum of clients' integers (size,) modulo 2^64: exact, in any order and grouping."""

    def __init__(self, shape: UpdateShape, size: int) -> None:
        super().__init__(shape)
        self._numbers = np.zeros(size, dtype=np.uint64)

    def _add(self, update: ClientUpdate | IntegerMessage) -> None:
        [numbers] = update.arrays
        self._numbers += numbers

    def part(self, start: int, stop: int) -> IntegerPart:
        return IntegerPart(self.client_ids, self._numbers[start:stop])


def combine_integers(parts: Sequence[Part]) -> np.ndarray:
    """Return a stretch (n,) uint64 of the whole sum; AggregationError if there is nothing in it."""
    filled = [p.numbers for p in parts if isinstance(p, IntegerPart) and p.client_ids]
    if not filled:
        raise AggregationError(NOTHING)
    return np.add.reduce(filled)
