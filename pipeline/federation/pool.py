"""A client pool runs a task for many clients and returns the results in the clients' order.

The driver and the experiment know this interface only. The numbers do not depend on the pool: a
task is a function of its arguments, so a repetition gives the result of the first try. Work that
fails is done again; a client that fails `MAX_TRIES` times ends the run with its name. Sums over
clients stay with the workers until `collect` finds each client in them exactly once.
"""

import logging
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, TypeVar

from spire_core.errors import ClusterError, SpireError, first_line, lacks_memory

MAX_TRIES = 3
LESS_MEMORY = (
    "lower resources.num_actors or, in a new run, federation.cohort_size, client.group_size, "
    "client.batch_size or model.width"
)
SEE_LOG = "see the log above and under the Ray session folder"
logger = logging.getLogger(__name__)
T = TypeVar("T")
Group = tuple[int, ...]
Unit = int | Group
"""The clients of one call of a task: a single one, or a group that is computed together."""
Units = Sequence[Unit]
More = Sequence[tuple] | None  # arguments for each unit


def in_groups(members: Sequence[T], size: int) -> list[tuple[T, ...]]:
    """Return members, such as clients, in their order, cut into groups of at most `size`."""
    return [tuple(members[i : i + size]) for i in range(0, len(members), size)]


class Tries:
    """Counts the failures of a task's units; the last one that is allowed ends the run."""

    def __init__(self, task: str, units: Units) -> None:
        self.task, self.units = task, units
        self._failed: Counter[int] = Counter()

    def failed(self, position: int, cause: str, remedy: str = SEE_LOG) -> None:
        """Note that a unit has failed; ClusterError, with its clients, if it will not end."""
        unit = self.units[position]
        ids = (unit,) if isinstance(unit, int) else unit
        names = f"client{'s' * (len(ids) > 1)} {', '.join(map(str, ids))}"
        logger.warning("%s for %s: %s", self.task, names, cause)
        self._failed[position] += 1
        if self._failed[position] == MAX_TRIES:
            raise ClusterError(
                f"expected {self.task} to end for {names}, got {cause}, {MAX_TRIES} times: "
                f"{remedy}; spire resume goes on from the last checkpoint"
            )


def cause_of(error: BaseException) -> tuple[str, str]:
    """Return the cause of a task's error, and its remedy, in words."""
    if lacks_memory(error):
        return f"too little memory ({first_line(error)})", LESS_MEMORY
    frames = traceback.extract_tb(error.__traceback__)
    place = f" at {frames[-1].filename.rpartition('/')[2]}:{frames[-1].lineno}" if frames else ""
    return f"{error!r}{place}", SEE_LOG


class ClientPool(Protocol):
    """Runs tasks: methods of a worker whose first argument is a client's id, or a group's ids.

    `busy_s`: seconds of work, summed over the workers.
    """

    busy_s: float = 0.0

    @property
    def num_workers(self) -> int:
        """The number of units that can be computed at the same time."""
        ...

    def run_all(self, task: str, units: Units, *args: Any, per_unit: More = None) -> list[Any]:
        """Return for each unit the result of `task(unit, *args, *per_unit[i])`.

        Units begin in their order. An error of SPIRE's own, such as DivergenceError, is raised at
        once.
        """
        ...

    def each(self, method: str, *args: Any) -> Iterator[Any]:
        """Yield each worker's result of a method, one after the other; None of a lost worker.

        A worker is asked when its result is: `next` of this asks the first one alone.
        """
        ...

    def total(self, name: int | str) -> Any:
        """Return the sum of the workers' sums of this name, passed on from one to the next.

        Sums of single workers do not come here. None if a worker is lost.
        """

    def share(self, value: Any) -> Any:
        """Hand a large value over once; return a handle that any number of tasks may get."""

    def close(self) -> None:
        """End the workers."""


class LocalClientPool(ClientPool):
    """All clients in this process, one after the other: the plain reference."""

    def __init__(self, worker: Any) -> None:
        self.worker = worker

    @property
    def num_workers(self) -> int:
        return 1

    def run_all(self, task: str, units: Units, *args: Any, per_unit: More = None) -> list[Any]:
        began, tries, results = time.monotonic(), Tries(task, units), list[Any]()
        for position, more in enumerate(per_unit or [()] * len(units)):
            while len(results) == position:
                try:
                    results.append(getattr(self.worker, task)(units[position], *args, *more))
                except SpireError:
                    raise
                except Exception as error:  # whatever torch raises: it is tried again, then told
                    tries.failed(position, *cause_of(error))
        self.busy_s += time.monotonic() - began
        return results

    def each(self, method: str, *args: Any) -> Iterator[Any]:
        yield getattr(self.worker, method)(*args)

    def total(self, name: int | str) -> Any:
        return self.worker.merged(name, None)

    def share(self, value: Any) -> Any:
        return value

    def close(self) -> None:
        self.worker.close()


def collect(
    pool: ClientPool,
    name: int | str,
    groups: Sequence[Group],
    compute: Callable[[Sequence[Group]], object],
) -> Any:
    """Return the total of the sums of this name, in which each client of the groups is once.

    `compute` has workers compute groups, whose clients each add to a running sum. A worker that is
    lost takes its sum with it: its groups are computed again, to the same bits. Where a client is
    there twice, since its answer was lost, or a worker is lost as sums are passed on, all begin
    anew. ClusterError if sums are lost again and again.
    """
    wanted, left = Counter(c for group in groups for c in group), groups
    for _ in range(MAX_TRIES):
        compute(left)
        found = Counter(c for ids in pool.each("summed", name) for c in ids or ())
        if found == wanted:
            total = pool.total(name)
            if total is not None and Counter(total.client_ids) == wanted:
                return total
        left = [group for group in groups if not found.keys() >= set(group)]
        if not left or found.total() > len(found):
            list(pool.each("forget_sum"))
            left = groups
        logger.warning("the sums of %d groups of clients are lost: computed again", len(left))
    raise ClusterError(
        f"expected the sums of clients to be kept until they are averaged, got them lost "
        f"{MAX_TRIES} times: see the log above; spire resume goes on from the last checkpoint"
    )
