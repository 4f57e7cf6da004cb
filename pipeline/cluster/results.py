"""The results of actors, and their errors as sentences."""

from typing import Any

import ray
from ray.exceptions import OutOfMemoryError, RayError, RayTaskError

from pipeline.federation.pool import LESS_MEMORY, SEE_LOG, cause_of
from spire_core.errors import ClusterError, first_line

RESUME = "spire resume goes on from the last checkpoint"


def result_of(ref: Any, limit_s: float | None = None) -> Any:
    """Return the result of `ray.get`; an error has the type that it was raised with.

    ClusterError if the actor is lost or, after `limit_s` seconds, has not answered.
    """
    try:
        return ray.get(ref, timeout=limit_s)
    except RayTaskError as error:
        raise task_error(error) from error
    except RayError as error:
        raise loss_error(error) from error


def task_error(error: RayTaskError) -> Exception:
    """Return the error that a task raised; a lost argument and too little memory are sentences."""
    cause = error.cause
    if isinstance(cause, RayError):
        return loss_error(cause)
    told, remedy = cause_of(cause)
    if remedy == LESS_MEMORY:
        return ClusterError(f"expected room for a client's step, got {told}: {remedy}")
    return cause


def loss_error(error: RayError) -> ClusterError:
    """Return the sentence about a lost actor or result."""
    cause, remedy = loss_cause(error)
    return ClusterError(f"expected every actor to stay alive, got {cause}: {remedy}; {RESUME}")


def loss_cause(error: Exception) -> tuple[str, str]:
    """Return the cause of a loss and its remedy, in words."""
    if isinstance(error, OutOfMemoryError):
        return "a process that was ended because memory is short", LESS_MEMORY
    return f"a lost actor ({first_line(error)})", SEE_LOG
