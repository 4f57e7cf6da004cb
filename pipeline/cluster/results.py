"""The results of actors, which are waited for in slices, and their errors as sentences.

No wait outlasts the cluster (`watch`), and every long wait names its subject.
"""

import contextlib
import itertools
import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import ray
from ray.exceptions import (
    GetTimeoutError,
    ObjectStoreFullError,
    OutOfDiskError,
    OutOfMemoryError,
    RayActorError,
    RayError,
    RayTaskError,
)

from pipeline.clients.free_memory import oom_kills
from pipeline.cluster.watch import TICK_S, check_alive, check_now
from pipeline.federation.machine_faults import LESS_MEMORY, has_lost_gpu, lacks_memory
from pipeline.federation.work import SEE_LOG
from spire_core.errors import ClusterError, first_line

NOTICE_TICKS = 30  # until the first line about a wait; then after 60, 120, ...
MORE_DISK = "free the disk of /tmp/ray, or name a folder on another one with RAY_TMPDIR"
MORE_STORE = "raise RAY_DEFAULT_OBJECT_STORE_MEMORY_PROPORTION above 0.3"
KILLS_BEFORE = oom_kills()  # as this process began
RESUME = "spire resume goes on from the last checkpoint"
_log = logging.getLogger(__name__)
_longest: dict[str, int] = {}  # ticks of a wait, by its subject
Beat = Callable[[int], None]  # is called with the ticks of a wait so far; raises to end it


class Patience:
    """The seconds that workers still have, of `limit_s` for each client; None for any number.

    Of each slice of a wait no more than its length counts: not while this process stands still.
    """

    def __init__(self, limit_s: float | None) -> None:
        self.limit_s, self.spent_s = limit_s, 0.0

    def left_s(self, num_clients: int) -> float | None:
        """Return the time that is left for so many clients, None without a limit."""
        return None if self.limit_s is None else max(0.0, self.limit_s * num_clients - self.spent_s)

    def spend(self, began: float, slice_s: float) -> None:
        """Count a slice that began then, by `time.monotonic`, and was to be so long at most."""
        self.spent_s += min(time.monotonic() - began, slice_s)


def ticks(subject: str, limit_s: float | None = None) -> Iterator[tuple[int, float]]:
    """Yield the number and the length of a wait's slices, with log lines; end at the limit.

    The first line comes after `NOTICE_TICKS`, or twice the longest wait for the same subject until
    now: rounds that always take minutes are not news. ClusterError when the cluster is lost.
    """
    left_s = math.inf if limit_s is None else max(0.0, limit_s)
    notice, tick = max(NOTICE_TICKS, 2 * _longest.get(subject, 0)), 0
    try:
        for tick in itertools.count():
            check_alive()
            if tick == notice:
                _log.warning("waiting for %s, %d s so far", subject, tick * TICK_S)
                notice *= 2
            yield tick, min(TICK_S, left_s)
            left_s -= TICK_S
            if left_s <= 0:
                return
    finally:
        _longest[subject] = max(tick, _longest.get(subject, 0))


def result_of(
    ref: Any, limit_s: float | None = None, subject: str = "an actor", beat: Beat | None = None
) -> Any:
    """Return the result of `ray.get`; an error has the type that it was raised with.

    After `limit_s` seconds without a result, the actor counts as lost.
    """
    try:
        return get(ref, limit_s, subject, beat)
    except RayTaskError as error:
        raise task_error(error) from error
    except RayError as error:  # the actor is lost, or its result with the node
        raise loss_error(error) from error


def get(
    ref: Any, limit_s: float | None = None, subject: str = "an actor", beat: Beat | None = None
) -> Any:
    """Do as `ray.get(ref, timeout=limit_s)`, with its errors, but never outlast the cluster.

    A result on another node comes here in as many slices as it takes. A `ray.get` that runs out of
    time would break its transfer off, and the next one would begin anew.
    """
    for tick, slice_s in ticks(subject, limit_s):
        if beat is not None:
            beat(tick)
        done, _ = ray.wait([ref], timeout=slice_s, fetch_local=True)
        if done:
            with contextlib.suppress(GetTimeoutError):  # the store has dropped it again
                return ray.get(ref, timeout=TICK_S)
    raise GetTimeoutError(f"no answer in {limit_s} s")


def wait(
    refs: Sequence[Any],
    limit_s: float | None = None,
    subject: str = "actors",
    patience: Patience | None = None,
) -> tuple[list[Any], list[Any]]:
    """Wait for all results; return those that are there, anywhere, and the others."""
    done, pending = list[Any](), list(refs)
    for _, slice_s in ticks(subject, limit_s):
        began = time.monotonic()
        done, pending = ray.wait(
            list(refs), num_returns=len(refs), timeout=slice_s, fetch_local=False
        )
        if patience is not None:
            patience.spend(began, slice_s)
        if not pending:
            break
    return done, pending


def task_error(error: RayTaskError) -> Exception:
    """Return the error that a task raised; one with a remedy becomes a sentence for the user.

    Raises the ClusterError of the whole cluster if that is lost.
    """
    cause = error.cause
    if isinstance(cause, RayError):  # an argument is lost
        return loss_error(cause)
    if isinstance(cause, ClusterError):  # of an actor that has lost another: see `loss_error`
        check_now()
    if lacks_memory(cause):
        return ClusterError(
            f"expected memory for every client actor, got {first_line(cause)!r}: "
            f"end what else uses the machine or its GPU, or {LESS_MEMORY}"
        )
    if has_lost_gpu(cause):
        return ClusterError(
            f"expected every client actor to keep its GPU, got {first_line(cause)!r}: "
            f"look for faults of the GPU with nvidia-smi; {RESUME}"
        )
    return cause


def loss_error(error: RayError) -> ClusterError:
    """Return the sentence for the user about a lost actor or result.

    Raises the ClusterError of the whole cluster if that is lost.
    """
    check_now()  # a node that is lost takes its actors with it
    cause, remedy = loss_cause(error, "the loss of one")
    return ClusterError(f"expected every actor to stay alive, got {cause}: {remedy}; {RESUME}")


def loss_cause(error: RayError, loss: str) -> tuple[str, str]:
    """Return the cause of a loss and its remedy, in words; `loss` names it if nothing else does.

    Linux ends a process that has no memory left with SIGKILL and counts that (`oom_kills`).
    """
    is_killed = isinstance(error, RayActorError) and oom_kills() > KILLS_BEFORE
    if isinstance(error, OutOfMemoryError) or is_killed:
        return "a process that was ended because memory is short", LESS_MEMORY
    if isinstance(error, OutOfDiskError):
        return "a full disk under Ray's object store, which holds updates and images", MORE_DISK
    if isinstance(error, ObjectStoreFullError):
        return "a full object store of Ray, which holds updates and images", MORE_STORE
    return f"{loss} ({first_line(error)})", SEE_LOG
