"""Systems that do the same work, timed alternately so that all of them meet the same machine."""

import os
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import psutil

Cost = tuple[float, float]  # wall and CPU seconds
Call = Callable[[], Any]
System = tuple[Call, Sequence[int], int]  # a call, its workers' pids, its units of work
Systems = dict[str, System]


def cpu_s(pids: Sequence[int]) -> float:
    """CPU seconds of this process and of those named, so far."""
    times = [psutil.Process(pid).cpu_times() for pid in (os.getpid(), *pids)]
    return sum(t.user + t.system for t in times)


def measured(call: Call, pids: Sequence[int]) -> Cost:
    wall, cpu = time.perf_counter(), cpu_s(pids)
    call()
    return time.perf_counter() - wall, cpu_s(pids) - cpu


def alternately(systems: Systems, repeats: int) -> dict[str, dict[str, Any]]:
    """Return medians and all values of each system's wall and CPU seconds, after one warm-up.

    Ratios are those of the seconds per unit of work, to the first system.
    """
    costs: dict[str, list[Cost]] = {name: [] for name in systems}
    for repeat in range(repeats + 1):
        for name, (call, pids, _) in systems.items():
            cost = measured(call, pids)
            if repeat > 0:
                costs[name].append(cost)
    found: dict[str, dict[str, Any]] = {}
    for name, (_, _, units) in systems.items():
        wall_s, cpu_s = (statistics.median(several) for several in zip(*costs[name], strict=True))
        found[name] = {"units": units, "wall_s": wall_s, "cpu_s": cpu_s, "all": costs[name]}
    reference = next(iter(found.values()))
    for own in found.values():
        for clock in ("wall", "cpu"):
            per_unit = own[f"{clock}_s"] / own["units"]
            plain = reference[f"{clock}_s"] / reference["units"]
            own[f"{clock}_ratio"] = per_unit / plain if plain else None
    return found
