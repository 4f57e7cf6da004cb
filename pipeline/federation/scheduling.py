"""Load balancing over workers of different speed."""

import statistics
from collections.abc import Sequence

NEWEST = 0.3  # the weight of the last measurement in a worker's speed


class WorkerSpeeds:
    """Measured seconds of each worker for a unit of a task's cost.

    Workers on other machines may be slower. The distribution of work does not change any result. A
    process's first time for a task does not count, because it includes start-up work.
    """

    def __init__(self) -> None:
        self._started: set[tuple[str, int]] = set()  # task and worker
        self._measured: dict[str, dict[int, float]] = {}  # by task and worker

    def of(self, task: str, num_workers: int) -> list[float]:
        """Return each worker's seconds per cost; an unmeasured worker has the others' median."""
        known = self._measured.get(task, {})
        usual = statistics.median(known.values()) if known else 1.0
        return [known.get(worker, usual) for worker in range(num_workers)]

    def renew(self, worker: int) -> None:
        """Expect a worker to be a new process, whose first times do not count."""
        self._started = {(task, old) for task, old in self._started if old != worker}

    def learn(self, task: str, worker: int, cost: float, seconds: float) -> None:
        """Add a worker's time for work of this cost; single measurements are smoothed."""
        if (task, worker) not in self._started:
            self._started.add((task, worker))
            return
        known, newest = self._measured.setdefault(task, {}), seconds / cost
        before = known.get(worker, newest)
        known[worker] = before + NEWEST * (newest - before)


def balance(costs: Sequence[float], speeds: Sequence[float]) -> list[list[int]]:
    """Return the positions for each worker: the costliest first, to the worker that ends it first.

    `speeds` are seconds per unit of cost.
    """
    ends, shares = [0.0] * len(speeds), [[] for _ in speeds]
    for position in sorted(range(len(costs)), key=lambda i: (-costs[i], i)):
        next_ends = [end + costs[position] * s for end, s in zip(ends, speeds, strict=True)]
        worker = next_ends.index(min(next_ends))
        ends[worker] = next_ends[worker]
        shares[worker].append(position)
    return [sorted(positions) for positions in shares]
