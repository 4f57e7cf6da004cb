"""A client pool runs a task for many clients and returns the results in the clients' order.

The driver and the experiment know this interface only. The numbers do not depend on the pool: a
task is a function of its arguments, so a repetition gives the result of the first try. Work that
fails is done again; a client that fails `MAX_TRIES` times ends the run with its name.
"""

import logging
import time
import traceback
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

from spire_core.errors import ClusterError, SpireError, first_line

MAX_TRIES = 3
LESS_MEMORY = (
    "lower resources.num_actors or, in a new run, federation.cohort_size, client.group_size, "
    "client.batch_size or model.width"
)
SEE_LOG = "see the log above and under the Ray session folder"
logger = logging.getLogger(__name__)
T = TypeVar("T")
Unit = int | tuple[int, ...]
"""The clients of one call of a task: a single one, or a group that is computed together."""


def in_groups(members: Sequence[T], size: int) -> list[tuple[T, ...]]:
    """Return members, such as clients, in their order, cut into groups of at most `size`."""
    return [tuple(members[i : i + size]) for i in range(0, len(members), size)]


class Tries:
    """Counts the failures of a task's units; the last one that is allowed ends the run."""

    def __init__(self, task: str, units: Sequence[Unit], where: str) -> None:
        self.task, self.units, self.where = task, units, where
        self._failed: Counter[int] = Counter()

    def failed(self, position: int, cause: str, remedy: str = SEE_LOG) -> None:
        """Note that a unit has failed; ClusterError, with its clients, if it will not end."""
        names = f"{names_of(self.units[position])}, {self.task}{self.where}"
        logger.warning("%s: %s", names, cause)
        self._failed[position] += 1
        if self._failed[position] == MAX_TRIES:
            raise ClusterError(
                f"expected {self.task} to end for {names_of(self.units[position])}{self.where}, "
                f"got {cause}, {MAX_TRIES} times: {remedy}; spire resume goes on from the last "
                "checkpoint"
            )


def names_of(unit: Unit) -> str:
    """Return a unit's clients, for a sentence."""
    ids = (unit,) if isinstance(unit, int) else unit
    return f"client{'s' * (len(ids) > 1)} {', '.join(map(str, ids))}"


def lacks_memory(error: BaseException) -> bool:
    """Return whether an error says that the memory of a machine or of a GPU is full."""
    text = str(error)  # of torch, for a GPU or for a machine
    return isinstance(error, MemoryError) or "out of memory" in text or "allocate memory" in text


def cause_of(error: BaseException) -> tuple[str, str]:
    """Return the cause of a task's error, and its remedy, in words."""
    if lacks_memory(error):
        return f"too little memory ({first_line(error)})", LESS_MEMORY
    frames = traceback.extract_tb(error.__traceback__)
    place = f" at {frames[-1].filename.rpartition('/')[2]}:{frames[-1].lineno}" if frames else ""
    return f"{error!r}{place}", SEE_LOG


class ClientPool(ABC):
    """Runs tasks: methods of a worker whose first argument is a client's id, or a group's ids.

    `busy_s`: seconds of work, summed over the workers.
    """

    busy_s: float = 0.0

    @property
    @abstractmethod
    def num_workers(self) -> int:
        """The number of units that can be computed at the same time."""

    @abstractmethod
    def run_all(
        self,
        task: str,
        units: Sequence[Unit],
        *args: Any,
        per_unit: Sequence[tuple] | None = None,
        costs: Sequence[float] | None = None,
        where: str = "",
    ) -> list[Any]:
        """Return for each unit the result of `task(unit, *args, *per_unit[i])`.

        Units of higher `costs` begin first. `where` ends the sentence about a failure. An error of
        SPIRE's own, such as DivergenceError, is raised at once.
        """

    @abstractmethod
    def each(self, method: str, *args: Any) -> Iterator[Any]:
        """Yield each worker's result of a method, one after the other; None of a lost worker."""

    @abstractmethod
    def ask_first(self, method: str, *args: Any) -> Any:
        """Return the first worker's result of a method, or None if that worker is lost."""

    @abstractmethod
    def combined(self, part: str, combine: str, *args: Any, combine_args: tuple = ()) -> Any:
        """Return `combine([part(*args) of each worker], *combine_args)`, worked out at a worker.

        The parts do not come here. None if a worker is lost.
        """

    @abstractmethod
    def share(self, value: Any) -> Any:
        """Hand a large value over once; return a handle that any number of tasks may get."""

    @abstractmethod
    def close(self) -> None:
        """End the workers."""


class LocalClientPool(ClientPool):
    """All clients in this process, one after the other: the plain reference."""

    def __init__(self, worker: Any) -> None:
        self.worker = worker

    @property
    def num_workers(self) -> int:
        return 1

    def run_all(
        self,
        task: str,
        units: Sequence[Unit],
        *args: Any,
        per_unit: Sequence[tuple] | None = None,
        costs: Sequence[float] | None = None,
        where: str = "",
    ) -> list[Any]:
        began, tries = time.monotonic(), Tries(task, units, where)
        extra = per_unit or [()] * len(units)
        results = [self._result(i, tries, *args, *extra[i]) for i in range(len(units))]
        self.busy_s += time.monotonic() - began
        return results

    def _result(self, position: int, tries: Tries, *args: Any) -> Any:
        while True:
            try:
                return getattr(self.worker, tries.task)(tries.units[position], *args)
            except SpireError:
                raise
            except Exception as error:  # whatever torch raises: it is tried again, and then told
                tries.failed(position, *cause_of(error))

    def each(self, method: str, *args: Any) -> Iterator[Any]:
        yield self.ask_first(method, *args)

    def ask_first(self, method: str, *args: Any) -> Any:
        return getattr(self.worker, method)(*args)

    def combined(self, part: str, combine: str, *args: Any, combine_args: tuple = ()) -> Any:
        own = getattr(self.worker, part)(*args)
        return getattr(self.worker, combine)([own], *combine_args)

    def share(self, value: Any) -> Any:
        return value

    def close(self) -> None:
        self.worker.close()
