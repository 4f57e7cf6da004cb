"""What makes a client's update unfit to be averaged; it is asked before anything is averaged."""

import math
from dataclasses import dataclass

import numpy as np

from spire_core.federated.messages import ClientUpdate
from spire_core.methods import NETWORK_PARTS

MOMENTS = ("exp_avg", "exp_avg_sq", "steps")
MAX_EXAMPLES = 2**53  # of one client: a float64 holds every number up to here


@dataclass(frozen=True)
class Fault:
    """What is wrong, in words; `is_divergence`: with numbers that training itself drove away."""

    text: str
    is_divergence: bool = False

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class CheckedUpdate:
    """An update that `check_update` has let through; `aggregate` does not scan it again."""

    update: ClientUpdate


def check_update(
    update: ClientUpdate,
    before: np.ndarray,
    has_moments: bool,
    max_norm: float | None = None,
    num_examples: int | None = None,
) -> CheckedUpdate | Fault:
    """Return the update as one that can be averaged, or the fault that `fault_of` finds in it."""
    fault = fault_of(update, before, has_moments, max_norm, num_examples)
    return CheckedUpdate(update) if fault is None else fault


def fault_of(
    update: ClientUpdate,
    before: np.ndarray,
    has_moments: bool,
    max_norm: float | None = None,
    num_examples: int | None = None,
) -> Fault | None:
    """Return what makes an update unfit to be averaged, or None.

    `before` (S,) are the shared weights that it started from, `has_moments` says whether Adam's
    moments travel with the weights, `max_norm` is the most that the weights may have moved,
    `num_examples` the client's number of examples as the server knows it.
    """
    fault = _count_fault(update.num_examples, num_examples)
    if fault is not None:
        return fault
    if not isinstance(update.loss, float):
        return Fault(f"a loss as {type(update.loss).__name__}")
    if not math.isfinite(update.loss):
        return Fault(f"a loss of {update.loss}", is_divergence=True)
    shapes = {"weights": before.shape}
    if has_moments:
        shapes |= {"exp_avg": before.shape, "exp_avg_sq": before.shape}
        shapes["steps"] = (len(NETWORK_PARTS),)
    for name in ("weights", *MOMENTS):
        fault = _array_fault(name, getattr(update, name), shapes.get(name))
        if fault is not None:
            return fault
    if max_norm is not None:
        norm = float(np.linalg.norm(update.weights.astype(np.float64) - before))
        if norm > max_norm:
            return Fault(f"a change of norm {norm:.3g}, above {max_norm:g},", is_divergence=True)
    return None


def _count_fault(claimed: object, known: int | None) -> Fault | None:
    """Return the defect of the number of examples that a client claims.

    The number is the client's weight in the mean: a large one would outvote all others.
    """
    if not isinstance(claimed, int | float | np.integer | np.floating):
        return Fault(f"examples as {type(claimed).__name__}")
    if isinstance(claimed, int) and abs(claimed) > MAX_EXAMPLES:  # maybe too long to print
        return Fault("a number of examples beyond 2^53")
    if not 0 < claimed <= MAX_EXAMPLES:
        return Fault(f"{claimed} examples")
    if known is not None and claimed != known:
        return Fault(f"{claimed} examples instead of {known}")
    return None


def _array_fault(name: str, array: object, shape: tuple[int, ...] | None) -> Fault | None:
    """Return what is wrong with one array of an update; shape None: it should not be there."""
    if array is None and shape is None:
        return None
    if array is None or shape is None:
        return Fault(f"{'no' if array is None else 'unasked'} {name}")
    if not isinstance(array, np.ndarray) or array.dtype != np.float32:
        dtype = getattr(array, "dtype", type(array).__name__)
        return Fault(f"{name} as {dtype} instead of float32")
    if array.shape != shape:
        return Fault(f"{name} of shape {array.shape} instead of {shape}")
    if not np.isfinite(array).all():
        return Fault(f"NaN or infinity in {name}", is_divergence=True)
    if name in ("exp_avg_sq", "steps") and (array < 0).any():  # Adam takes its root
        return Fault(f"negative {name}")
    return None
