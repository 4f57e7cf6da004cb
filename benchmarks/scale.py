"""Costs of a round by parameters, cohort and actors, from constants that are measured here.

The constants: seconds for each number to check, to add to a sum, to merge and to average; seconds
for each byte that goes through Ray's object store. Everything else is counting. Training itself is
not in the table: it depends on the network, the device and `tau`. Writes one JSON and prints the
table of docs/scale.md.

    python benchmarks/scale.py --out benchmarks/results/scale.json
"""

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.cluster.session import cluster
from pipeline.files.revision import git_revision
from spire_core.federated.accumulation import UpdateShape, UpdateSum, combine
from spire_core.federated.messages import AdamMoments, Broadcast, ClientUpdate
from spire_core.federated.update_checks import CheckedUpdate, check_update

PARAMETERS = {"0.46 M": 463_364, "36 M": 35_700_000, "1 B": 1_000_000_000}
COHORTS, ACTORS = (100, 1_000, 10_000), (2, 8, 64)
SIZE, NUM_EXAMPLES, REPEATS = 4_000_000, 64, 7
SUM_BYTES = 8  # of a number in a sum
NETWORK_BYTES_S = 10e9 / 8  # of a node, where it is the limit: assumed, 10 Gbit/s
GB = 1e9


def update(client_id: int) -> ClientUpdate:
    """Return an update whose numbers vary as after 40 rounds of `mnist-cpu`."""
    rng = np.random.default_rng(client_id)
    weights = (0.03 * rng.standard_normal(SIZE)).astype(np.float32)
    first = rng.choice([-1, 1], SIZE) * 10 ** rng.normal(-5.06, 0.75, SIZE)
    second = 10 ** rng.normal(-9.1, 1.06, SIZE)
    moments = AdamMoments(first.astype(np.float32), second.astype(np.float32), np.ones(3, "f4"))
    return ClientUpdate(client_id, NUM_EXAMPLES, 1, 0.0, weights, moments)


def seconds(work: Callable[[], object]) -> float:
    """Return the median seconds of a call, after one that is not counted."""
    work()
    times = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def measured_sums() -> dict[str, float]:
    """Return the nanoseconds of each step for each weight, both of its moments included."""
    first = update(0)
    before, shape = (
        Broadcast(first.weights, first.moments),
        UpdateShape(SIZE, True, 1000 * NUM_EXAMPLES),
    )
    accumulators = [UpdateSum(before, shape) for _ in range(2)]
    checked = check_update(first, first.weights, has_moments=True)
    assert isinstance(checked, CheckedUpdate)
    updates = [checked]
    for total in accumulators:
        total.accumulate(checked)

    def add() -> None:  # the next client
        updates.append(replace(checked, update=replace(first, client_id=len(updates))))
        accumulators[0].accumulate(updates[-1])

    parts = [total.part(0, SIZE) for total in accumulators]
    checking = seconds(lambda: check_update(first, first.weights, has_moments=True))
    one, two = (seconds(lambda n=n: combine(parts[:n])) for n in (1, 2))
    times = {"check": checking, "add": seconds(add), "mean": one, "merge": two - one}
    times["copy"] = seconds(lambda: accumulators[0].part(0, SIZE))
    return {f"{name}_ns": 1e9 * s / SIZE for name, s in times.items()}


def measured_store() -> dict[str, float]:
    """Return the seconds per GB from an actor's array to one in this process."""
    import ray

    @ray.remote(num_cpus=0)
    class Holder:
        def __init__(self) -> None:
            self.array = np.ones(SIZE, np.int64)

        def get(self) -> np.ndarray:
            return self.array

    with cluster():
        holder = Holder.remote()
        took = seconds(lambda: ray.get(holder.get.remote()).sum())  # type: ignore[attr-defined]
    return {"store_s_per_gb": took / (8 * SIZE / GB)}


def row(num_weights: int, cohort: int, num_actors: int, c: dict[str, float]) -> dict[str, float]:
    """Return bytes, memory and seconds of a round beside training.

    Each actor is on a node of its own where there are more than two, and its sum and the backbone
    cross the driver's network card.
    """
    numbers, per_actor = 3 * num_weights, cohort / num_actors
    sums = SUM_BYTES * numbers * num_actors
    backbone = 4 * numbers
    add_s = 1e-9 * (c["check_ns"] + c["add_ns"]) * num_weights * per_actor
    merge_s = 1e-9 * num_weights * (c["mean_ns"] + c["merge_ns"] * (num_actors - 1))
    moved_s = c["store_s_per_gb"] * sums / GB
    if num_actors > 2:
        moved_s = max(moved_s, (sums + backbone * num_actors) / NETWORK_BYTES_S)
    return {
        "clients_send_gb": backbone * cohort / GB,
        "actors_send_gb": sums / GB,
        "actor_gb": (4 * 4 * num_weights + backbone + SUM_BYTES * numbers) / GB,
        "driver_gb": (2 * (4 * num_weights + backbone) + 6 * 8 * num_weights) / GB,
        "add_s": add_s,
        "collect_s": merge_s + moved_s,
    }


def table(constants: dict[str, float]) -> list[dict[str, Any]]:
    rows = []
    for name, num_weights in PARAMETERS.items():
        for cohort in COHORTS:
            for num_actors in ACTORS:
                found = row(num_weights, cohort, num_actors, constants)
                sizes = {"parameters": name, "cohort": cohort, "actors": num_actors}
                rows.append(sizes | {key: float(f"{x:.2g}") for key, x in found.items()})
    return rows


def printed(rows: list[dict[str, Any]]) -> str:
    """Return the rows as a table in Markdown."""
    lines = [list(rows[0]), ["--:"] * len(rows[0])]
    lines += [[x if isinstance(x, str) else f"{x:,g}" for x in one.values()] for one in rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/scale.json"))
    args = parser.parse_args()
    constants = measured_sums() | measured_store()
    told: dict[str, Any] = {
        "command": "python benchmarks/scale.py",
        "commit": git_revision(),
        "machine": f"{platform.machine()}, {os.cpu_count()} CPUs",
        "measured": constants,
        "rows": table(constants),
    }
    args.out.write_text(json.dumps(told, indent=1) + "\n")
    print(json.dumps(constants, indent=1))
    print(printed(told["rows"]))


if __name__ == "__main__":
    main()
