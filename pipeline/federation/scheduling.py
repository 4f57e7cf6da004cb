"""Work shared out over workers of different speed."""

import statistics
from collections.abc import Sequence

NEWEST = 0.3  # the weight of the last measurement in a worker's pace


class Paces:
    """What each worker takes for a unit of a task's cost, in seconds, as it was measured.

    Workers on other machines may be slower. Who computes what does not change any result. A
    process's first time for a task does not count: it holds what a process does once.
    """

    def __init__(self) -> None:
        self._begun: set[tuple[str, int]] = set()
        self._measured: dict[str, dict[int, float]] = {}  # by task and worker

    def of(self, task: str, num_workers: int) -> list[float]:
        """Return each worker's pace; one that has not been measured is like the others."""
        known = self._measured.get(task, {})
        usual = statistics.median(known.values()) if known else 1.0
        return [known.get(worker, usual) for worker in range(num_workers)]

    def renew(self, worker: int) -> None:
        """Take note that a worker is a new process, whose first times do not count."""
        self._begun = {(task, old) for task, old in self._begun if old != worker}

    def learn(self, task: str, worker: int, cost: float, seconds: float) -> None:
        """Take note of a worker's time for so much cost; single measurements are smoothed."""
        if (task, worker) not in self._begun:
            self._begun.add((task, worker))
            return
        known, found = self._measured.setdefault(task, {}), seconds / cost
        before = known.get(worker, found)
        known[worker] = before + NEWEST * (found - before)


def assign(costs: Sequence[float], paces: Sequence[float]) -> list[list[int]]:
    """Return the positions that each worker takes: the costliest first, to who ends it first."""
    ends, taken = [0.0] * len(paces), [[] for _ in paces]
    for position in sorted(range(len(costs)), key=lambda i: (-costs[i], i)):
        then = [end + costs[position] * pace for end, pace in zip(ends, paces, strict=True)]
        worker = then.index(min(then))
        ends[worker] = then[worker]
        taken[worker].append(position)
    return [sorted(positions) for positions in taken]
