"""A client pool runs a task for many clients and answers in the order in which they were named.

The driver and the experiment see this interface only; the numbers do not depend on what is
behind it.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from pipeline.worker import ClientWorker
from spire_core.errors import SpireError

Unit = int | tuple[int, ...]
"""What a task is given at once: a client, or a group of clients that are computed together."""


class ClientPool(ABC):
    """Tasks are methods of `ClientWorker` that take a client's id first, or a group's ids."""

    @property
    @abstractmethod
    def num_workers(self) -> int:
        """How many clients can be worked on at once."""

    @abstractmethod
    def share(self, value: Any) -> Any:
        """Hand a large value over once; the answer may be passed to any number of tasks."""

    @abstractmethod
    def run(
        self,
        task: str,
        units: Sequence[Unit],
        *args: Any,
        per_unit: Sequence[tuple] | None = None,
        costs: Sequence[float] | None = None,
    ) -> list[Any]:
        """Return `task(unit, *args, *per_unit[i])` for each unit; `costs` balance them."""

    @abstractmethod
    def close(self) -> None:
        """End the workers."""


def assign(costs: Sequence[float], num_workers: int) -> list[list[int]]:
    """Return the positions that each worker takes: the costliest first, to the least loaded."""
    loads, taken = [0.0] * num_workers, [[] for _ in range(num_workers)]
    for position in sorted(range(len(costs)), key=lambda i: (-costs[i], i)):
        worker = loads.index(min(loads))
        loads[worker] += costs[position]
        taken[worker].append(position)
    return [sorted(positions) for positions in taken]


def run_chunk(
    worker: ClientWorker, task: str, units: Sequence[Unit], args: tuple, extra: Sequence[tuple]
) -> list[Any]:
    """Run one task for some units on one worker; an error says whose it was."""
    results = []
    for unit, own in zip(units, extra, strict=True):
        try:
            results.append(getattr(worker, task)(unit, *args, *own))
        except SpireError:
            raise
        except Exception as error:
            ids = (unit,) if isinstance(unit, int) else unit
            names = ", ".join(str(client_id) for client_id in ids)
            error.add_note(f"while client{'s' * (len(ids) > 1)} {names} ran {task}")
            raise
    return results


class LocalClientPool(ClientPool):
    """All clients in this process, one after the other: the plain reference."""

    def __init__(self, worker: ClientWorker) -> None:
        self.worker = worker

    @property
    def num_workers(self) -> int:
        return 1

    def share(self, value: Any) -> Any:
        return value

    def run(
        self,
        task: str,
        units: Sequence[Unit],
        *args: Any,
        per_unit: Sequence[tuple] | None = None,
        costs: Sequence[float] | None = None,
    ) -> list[Any]:
        return run_chunk(self.worker, task, units, args, per_unit or [()] * len(units))

    def close(self) -> None:
        pass
