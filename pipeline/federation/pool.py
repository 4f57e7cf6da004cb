"""A client pool runs a task for many clients and answers in the order in which they were named.

The driver and the experiment see this interface only; the numbers do not depend on what is
behind it.
"""

import logging
import time
import traceback
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from spire_core.errors import ClusterError, SpireError

MAX_TRIES = 3

logger = logging.getLogger(__name__)

Unit = int | tuple[int, ...]
"""What a task is given at once: a client, or a group of clients that are computed together."""


@dataclass(frozen=True)
class ClientFailure:
    """What a unit gave instead of a result.

    `num_lost`: how many units were lost together with the process that ran them, this one among
    them; 0 if it failed by itself.
    """

    unit: Unit
    cause: str
    num_lost: int = 0

    @property
    def names(self) -> str:
        """Whose work it was, for a sentence."""
        if isinstance(self.unit, int):
            return f"client {self.unit}"
        many = "s" if len(self.unit) > 1 else ""
        return f"client{many} {', '.join(map(str, self.unit))}"

    def error(self, task: str, where: str) -> ClusterError:
        """Return what ends a run that cannot do without this unit's work."""
        return ClusterError(
            f"expected {task} to end for {self.names}{where}, got {self.cause}: see the log "
            "above and under the Ray session folder; spire resume goes on from the last checkpoint"
        )


def in_groups(client_ids: Sequence[Any], size: int) -> list[tuple[Any, ...]]:
    """Return clients, in their order, cut into groups of at most `size`."""
    return [tuple(client_ids[i : i + size]) for i in range(0, len(client_ids), size)]


class ClientPool(ABC):
    """Runs tasks: methods of a worker that take a client's id first, or a group's ids.

    `busy_s`: seconds that the workers have spent on tasks, all of them together.
    """

    busy_s: float = 0.0

    @property
    @abstractmethod
    def num_workers(self) -> int:
        """How many clients can be worked on at once."""

    @abstractmethod
    def ask_first(self, method: str, *args: Any, limit_s: float | None = None) -> Any:
        """Return what a method of the first worker gives, or None if that worker is lost.

        A worker in a process of its own counts as lost after `limit_s` seconds.
        """

    @abstractmethod
    def share(self, value: Any) -> Any:
        """Hand a large value over once; the answer may be passed to any number of tasks."""

    def run(
        self,
        task: str,
        units: Sequence[Unit],
        *args: Any,
        per_unit: Sequence[tuple] | None = None,
        costs: Sequence[float] | None = None,
        on_error: str = "retry",
        where: str = "",
    ) -> list[Any]:
        """Return `task(unit, *args, *per_unit[i])` for each unit; `costs` balance them.

        A unit that fails is logged, with `where`. "retry" runs its task again, at most three times
        in all: a task is a function of what it is given, so the result is what it would have been.
        "drop" leaves a `ClientFailure` in its place, after one more try alone for each of several
        units that were lost together: one of them may have taken the others with it. "fail" and a
        last try raise ClusterError. A mistake of the user's (a SpireError) is raised at once.
        """
        extra, costs = per_unit or [()] * len(units), costs or [1.0] * len(units)
        failures: dict[int, ClientFailure] = {}
        results: list[Any] = [None] * len(units)

        def attempt(positions: list[int]) -> None:
            some, own = [units[i] for i in positions], [extra[i] for i in positions]
            got = self._attempt(task, args, some, own, [costs[i] for i in positions])
            for i, result in zip(positions, got, strict=True):
                results[i] = result
                failures.pop(i, None)
                if isinstance(result, ClientFailure):
                    failures[i] = result
                    logger.warning("%s, %s%s: %s", result.names, task, where, result.cause)

        attempt(list(range(len(units))))
        if on_error == "drop":
            for i in [i for i, failure in failures.items() if failure.num_lost > 1]:
                attempt([i])
            return results
        for _ in range(MAX_TRIES - 1 if on_error == "retry" else 0):
            if failures:
                attempt(list(failures))
        for failure in failures.values():
            raise failure.error(task, where)
        return results

    @abstractmethod
    def _attempt(
        self,
        task: str,
        args: tuple,
        units: list[Unit],
        extra: list[tuple],
        costs: list[float],
    ) -> list[Any]:
        """Run a task once for each unit and return results, or failures in their place."""

    @abstractmethod
    def close(self) -> None:
        """End the workers."""


def run_chunk(
    worker: Any, task: str, units: Sequence[Unit], args: tuple, extra: Sequence[tuple]
) -> list[Any]:
    """Run one task for some units on one worker; one unit's error spares the others."""
    results: list[Any] = []
    for unit, own in zip(units, extra, strict=True):
        try:
            results.append(getattr(worker, task)(unit, *args, *own))
        except SpireError:
            raise
        except Exception as error:
            logger.debug("%s", traceback.format_exc())
            at = traceback.extract_tb(error.__traceback__)[-1]
            cause = f"{error!r} at {at.filename.rpartition('/')[2]}:{at.lineno}"
            results.append(ClientFailure(unit, cause))
    return results


class LocalClientPool(ClientPool):
    """All clients in this process, one after the other: the plain reference."""

    def __init__(self, worker: Any) -> None:
        self.worker = worker

    @property
    def num_workers(self) -> int:
        return 1

    def ask_first(self, method: str, *args: Any, limit_s: float | None = None) -> Any:
        return getattr(self.worker, method)(*args)

    def share(self, value: Any) -> Any:
        return value

    def _attempt(
        self,
        task: str,
        args: tuple,
        units: list[Unit],
        extra: list[tuple],
        costs: list[float],
    ) -> list[Any]:
        began = time.monotonic()
        results = run_chunk(self.worker, task, units, args, extra)
        self.busy_s += time.monotonic() - began
        return results

    def close(self) -> None:
        pass
