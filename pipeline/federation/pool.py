"""A client pool runs a task for many clients and returns the results in the clients' order.

The driver and the experiment know this interface only. The numbers do not depend on the pool.

Two rules say which work is repeated. `ClientPool.run` tries each unit once; after a loss of several
units at once each of them has a try alone in its process, and after another such loss one alone in
the pool. `repeat_errors` runs again what failed, up to
`MAX_TRIES` times in all. A task is a function of its arguments, so a repetition gives the result of
the first try.
"""

import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from pipeline.federation.work import SEE_LOG, ClientFailure, Unit, Work, run_here
from spire_core.errors import SpireError

MAX_TRIES = 3

logger = logging.getLogger(__name__)

U = TypeVar("U")
R = TypeVar("R")


def in_groups(client_ids: Sequence[Any], size: int) -> list[tuple[Any, ...]]:
    """Return clients, in their order, cut into groups of at most `size`."""
    return [tuple(client_ids[i : i + size]) for i in range(0, len(client_ids), size)]


def repeat_errors(
    units: Sequence[U],
    run: Callable[[list[U]], Sequence[R | SpireError]],
) -> list[R]:
    """Return the results of `run(units)`; units that come to an error are run again.

    Raises an error of the last of `MAX_TRIES` tries.
    """
    results: dict[int, R] = {}
    errors: dict[int, SpireError] = {}
    left = list(range(len(units)))
    for _ in range(MAX_TRIES):
        outcomes = run([units[i] for i in left])
        errors = {}
        for i, outcome in zip(left, outcomes, strict=True):
            if isinstance(outcome, SpireError):
                errors[i] = outcome
            else:
                results[i] = outcome
        left = list(errors)
        if not left:
            return [results[i] for i in range(len(units))]
    raise errors[left[0]]


class ClientPool(ABC):
    """Runs tasks: methods of a worker whose first argument is a client's id, or a group's ids.

    `busy_s`: seconds of work, summed over the workers. `last_loss`: cause and remedy, in `each`.
    """

    busy_s: float = 0.0
    last_loss: tuple[str, str] = ("a worker that began anew", SEE_LOG)

    @property
    @abstractmethod
    def num_workers(self) -> int:
        """The number of clients that can be computed at the same time."""

    @abstractmethod
    def ask_first(self, method: str, *args: Any, limit_s: float | None = None) -> Any:
        """Return the result of a method of the first worker, or None if that worker is lost.

        A worker in a process of its own counts as lost after `limit_s` seconds.
        """

    @abstractmethod
    def each(self, method: str, *args: Any) -> list[Any]:
        """Return each worker's result of a method, None for a worker that is lost."""

    @abstractmethod
    def share(self, value: Any) -> Any:
        """Hand a large value over once; return a handle that any number of tasks may get."""

    def run(
        self,
        task: str,
        units: Sequence[Unit],
        *args: Any,
        per_unit: Sequence[tuple] | None = None,
        costs: Sequence[float] | None = None,
        where: str = "",
    ) -> list[Any]:
        """Return for each unit the result of `task(unit, *args, *per_unit[i])` or a ClientFailure.

        `costs` balance the workers. Failures are logged, with `where`. If several units are lost
        at once, with their process or node, one of them may have taken the others with it. Each
        has a try alone in its process, in waves of one unit for each worker. Those of a wave that
        are lost at once have one with nobody beside them. A mistake of the user's (a SpireError)
        is raised at once.
        """
        return self._run_once(_work(task, units, args, per_unit, costs), where)

    def run_all(
        self,
        task: str,
        units: Sequence[Unit],
        *args: Any,
        per_unit: Sequence[tuple] | None = None,
        costs: Sequence[float] | None = None,
    ) -> list[Any]:
        """Return the results of all units; ClusterError if one fails `MAX_TRIES` times."""
        work = _work(task, units, args, per_unit, costs)

        def run(positions: list[int]) -> list[Any]:
            results = self._run_once(work.part(positions), "")
            return [r.error(task, "") if isinstance(r, ClientFailure) else r for r in results]

        return repeat_errors(range(len(units)), run)

    def _run_once(self, work: Work, where: str) -> list[Any]:
        results = self._logged(work, where)
        for is_last in (False, True):
            left = [i for i, result in enumerate(results) if _is_lost_with_others(result)]
            while left:
                size = 1 if is_last else self.num_workers
                wave, left = left[:size], left[size:]
                outcomes = self._logged(work.part(wave, is_wave=True), where)
                for i, outcome in zip(wave, outcomes, strict=True):
                    results[i] = outcome
        return results

    def _logged(self, work: Work, where: str) -> list[Any]:
        results = _lost_at_once(self.attempt(work))
        for result in results:
            if isinstance(result, ClientFailure):
                logger.warning("%s, %s%s: %s", result.names, work.task, where, result.cause)
        return results

    @abstractmethod
    def attempt(self, work: Work) -> list[Any]:
        """Call the task once for each unit; return results, or failures in their place.

        Each unit of a wave has a worker of its own.
        """

    @abstractmethod
    def close(self) -> None:
        """End the workers."""


def _work(
    task: str,
    units: Sequence[Unit],
    args: tuple,
    per_unit: Sequence[tuple] | None,
    costs: Sequence[float] | None,
) -> Work:
    return Work(task, units, args, per_unit or [()] * len(units), costs or [1.0] * len(units))


def _is_lost_with_others(result: Any) -> bool:
    return isinstance(result, ClientFailure) and result.num_lost > 1


def _lost_at_once(results: Sequence[Any]) -> list[Any]:
    """Return an attempt's results; units that are lost count as lost together, as with a node."""
    lost = [isinstance(result, ClientFailure) and result.num_lost > 0 for result in results]
    return [
        replace(result, num_lost=sum(lost)) if is_lost else result
        for result, is_lost in zip(results, lost, strict=True)
    ]


class LocalClientPool(ClientPool):
    """All clients in this process, one after the other: the plain reference."""

    def __init__(self, worker: Any) -> None:
        self.worker = worker

    @property
    def num_workers(self) -> int:
        return 1

    def ask_first(self, method: str, *args: Any, limit_s: float | None = None) -> Any:
        return getattr(self.worker, method)(*args)

    def each(self, method: str, *args: Any) -> list[Any]:
        return [getattr(self.worker, method)(*args)]

    def share(self, value: Any) -> Any:
        return value

    def attempt(self, work: Work) -> list[Any]:
        began = time.monotonic()
        results = run_here(self.worker, work)
        self.busy_s += time.monotonic() - began
        return results

    def close(self) -> None:
        pass
