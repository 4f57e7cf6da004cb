"""A client pool runs a task for many clients and answers in the order in which they were named.

The driver and the experiment see this interface only; the numbers do not depend on what is
behind it.
"""

import logging
import traceback
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.worker import ClientWorker
from spire_core.errors import ClusterError, SpireError

MAX_TRIES = 3
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ClientFailure:
    """What a client gave instead of a result; `is_lost`: with the process that ran it."""

    client_id: int
    cause: str
    is_lost: bool = False


class ClientPool(ABC):
    """Tasks are methods of `ClientWorker` that take a client's id first."""

    @property
    @abstractmethod
    def num_workers(self) -> int:
        """How many clients can be worked on at once."""

    @abstractmethod
    def share(self, value: Any) -> Any:
        """Hand a large value over once; the answer may be passed to any number of tasks."""

    def run(
        self,
        task: str,
        client_ids: Sequence[int],
        *args: Any,
        per_client: Sequence[tuple] | None = None,
        costs: Sequence[float] | None = None,
        on_error: str = "retry",
        where: str = "",
    ) -> list[Any]:
        """Return `task(client_id, *args, *per_client[i])` for each client; `costs` balance them.

        A client that fails is logged, with `where`. "retry" runs its task again, at most three
        times in all: a task is a function of what it is given, so the result is what it would have
        been. "drop" leaves a `ClientFailure` in its place. "fail" and a last try raise
        ClusterError. A mistake of the user's (a SpireError) is raised at once.
        """
        extra, results = per_client or [()] * len(client_ids), [None] * len(client_ids)
        costs, left = costs or [1.0] * len(client_ids), list(range(len(client_ids)))
        for _ in range(MAX_TRIES if on_error == "retry" else 1):
            ids, own = [client_ids[i] for i in left], [extra[i] for i in left]
            got = self._attempt(task, args, ids, own, [costs[i] for i in left])
            for i, result in zip(left, got, strict=True):
                results[i] = result
            left = [i for i in left if isinstance(results[i], ClientFailure)]
            for i in left:
                failure: Any = results[i]
                logger.warning("client %d, %s%s: %s", client_ids[i], task, where, failure.cause)
            if not left or on_error == "drop":
                return results
        failure = results[left[0]]
        raise ClusterError(
            f"expected {task} to end for client {failure.client_id}{where}, got {failure.cause}: "
            "see the log above and under the Ray session folder; spire resume goes on from the "
            "last checkpoint"
        )

    @abstractmethod
    def _attempt(
        self,
        task: str,
        args: tuple,
        client_ids: list[int],
        extra: list[tuple],
        costs: list[float],
    ) -> list[Any]:
        """Run a task once for each client and return results, or failures in their place."""

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
    worker: ClientWorker, task: str, client_ids: Sequence[int], args: tuple, extra: Sequence[tuple]
) -> list[Any]:
    """Run one task for some clients on one worker; one client's error spares the others."""
    results: list[Any] = []
    for client_id, own in zip(client_ids, extra, strict=True):
        try:
            results.append(getattr(worker, task)(client_id, *args, *own))
        except SpireError:
            raise
        except Exception as error:
            logger.debug("%s", traceback.format_exc())
            at = traceback.extract_tb(error.__traceback__)[-1]
            cause = f"{error!r} at {at.filename.rpartition('/')[2]}:{at.lineno}"
            results.append(ClientFailure(client_id, cause))
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

    def _attempt(
        self,
        task: str,
        args: tuple,
        client_ids: list[int],
        extra: list[tuple],
        costs: list[float],
    ) -> list[Any]:
        return run_chunk(self.worker, task, client_ids, args, extra)

    def close(self) -> None:
        pass
