"""Checks of a client's update, made before it enters any average."""

import math
from dataclasses import dataclass

import numpy as np

from spire_core.federated.messages import (
    AdamMoments,
    ClientUpdate,
    IntegerMessage,
    UpdateFault,
)
from spire_core.methods import NETWORK_PARTS

MAX_EXAMPLES = 2**29  # of one client: times a float32 number, it is exact in float64


@dataclass(frozen=True)
class CheckedUpdate:
    """An update that a check of this file has let through: the only kind that is accumulated."""

    update: ClientUpdate | IntegerMessage


def l2_norm(change: np.ndarray) -> float:
    """Return the length of a vector of float64, with the same bits for any number of threads.

    A library's product of long vectors adds up a part for each thread.
    """
    return math.sqrt(float(np.square(change).sum()))


def check_update(
    update: ClientUpdate, before: np.ndarray, has_moments: bool, num_examples: int | None = None
) -> CheckedUpdate | UpdateFault:
    """Return the update as one that can be averaged, or the reason not to (`fault_of`)."""
    return fault_of(update, before, has_moments, num_examples) or CheckedUpdate(update)


def check_integers(
    message: object, size: int, num_examples: int | None
) -> CheckedUpdate | UpdateFault:
    """Return a message of integers (size,) as one that can be summed, or the reason not to.

    Its content cannot be checked, since masked integers are uniform: its client has checked it.
    """
    if not isinstance(message, IntegerMessage):
        return UpdateFault(f"{type(message).__name__} instead of integers for a sum")
    if message.fault is not None:
        return message.fault
    fault = _count_fault(message.num_examples, num_examples)
    if fault is not None:
        return fault
    numbers = message.numbers
    if not isinstance(numbers, np.ndarray) or numbers.dtype != np.uint64:
        return UpdateFault(f"integers as {getattr(numbers, 'dtype', type(numbers).__name__)}")
    if numbers.shape != (size,):
        return UpdateFault(f"integers of shape {numbers.shape} instead of {(size,)}")
    return CheckedUpdate(message)


def fault_of(
    update: ClientUpdate, before: np.ndarray, has_moments: bool, num_examples: int | None = None
) -> UpdateFault | None:
    """Return the first reason not to average an update, or None if there is none.

    `before` (S,) are the shared weights that it started from, `has_moments` says whether Adam's
    moments travel with the weights, `num_examples` is the client's number of examples as the server
    knows it.
    """
    fault = _count_fault(update.num_examples, num_examples)
    if fault is not None:
        return fault
    if not isinstance(update.loss, float):
        return UpdateFault(f"a loss as {type(update.loss).__name__}")
    if not math.isfinite(update.loss):
        return UpdateFault(f"a loss of {update.loss}", is_divergence=True)
    return _array_fault("weights", update.weights, before.shape) or _moments_fault(
        update.moments, before.shape, has_moments
    )


def _count_fault(claimed: object, known: int | None) -> UpdateFault | None:
    """Return the defect of the number of examples that a client claims.

    The number is the client's weight in the mean: a large one would outvote all others.
    """
    if not isinstance(claimed, int | float | np.integer | np.floating):
        return UpdateFault(f"examples as {type(claimed).__name__}")
    if isinstance(claimed, int) and abs(claimed) > MAX_EXAMPLES:  # maybe too long to print
        return UpdateFault("a number of examples beyond 2^29")
    if not 0 < claimed <= MAX_EXAMPLES:
        return UpdateFault(f"{claimed} examples")
    if claimed != int(claimed):
        return UpdateFault(f"{claimed} examples, which is no whole number")
    if known is not None and claimed != known:
        return UpdateFault(f"{claimed} examples instead of {known}")
    return None


def _moments_fault(
    moments: object, shape: tuple[int, ...], has_moments: bool
) -> UpdateFault | None:
    if not has_moments:
        return None if moments is None else UpdateFault("unasked moments")
    if not isinstance(moments, AdamMoments):
        found = "no moments" if moments is None else f"moments as {type(moments).__name__}"
        return UpdateFault(found)
    return (
        _array_fault("exp_avg", moments.exp_avg, shape)
        or _array_fault("exp_avg_sq", moments.exp_avg_sq, shape)
        or _array_fault("steps", moments.steps, (len(NETWORK_PARTS),))
    )


def _array_fault(name: str, array: object, shape: tuple[int, ...]) -> UpdateFault | None:
    """Return the defect of one array of an update, or None if it is float32, finite and fits."""
    if not isinstance(array, np.ndarray) or array.dtype != np.float32:
        dtype = getattr(array, "dtype", type(array).__name__)
        return UpdateFault(f"{name} as {dtype} instead of float32")
    if array.shape != shape:
        return UpdateFault(f"{name} of shape {array.shape} instead of {shape}")
    if not np.isfinite(array).all():
        return UpdateFault(f"NaN or infinity in {name}", is_divergence=True)
    if name in ("exp_avg_sq", "steps") and (array < 0).any():  # Adam takes its root
        return UpdateFault(f"negative {name}")
    return None
