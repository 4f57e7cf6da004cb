"""What a large population costs: start-up, a round and memory at the same cohort, in real runs.

Every run is a process of its own with two client actors; the sizes take turns. Writes one JSON.

    python benchmarks/population.py --out benchmarks/results/population.json
"""

import argparse
import contextlib
import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from pipeline.config.load import load_config
from pipeline.experiment.run import run_experiment
from pipeline.experiment.watcher import Watcher
from pipeline.federation.driver import RoundDriver
from pipeline.federation.rounds import RoundStats
from pipeline.files.revision import git_revision

SIZES = (1_000, 100_000, 1_000_000)
SETTINGS = (
    "partition=independent",
    "partition.client_size=64",
    "federation.cohort_size=100",
    "federation.num_new_clients=1",
    "eval.every=0",
    "eval.num_clients=8",
    "tracking.enabled=false",
    "resources.num_actors=2",
)


class Enough(Exception):
    """Ends a run when its rounds are over."""


class Stopwatch(Watcher):
    """Notes of each round when it ended, and what the run's processes had used by then."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.ended_s, self.cpu_s, self.memory_mb = list[float](), list[float](), 0.0
        self.num_rounds = 0

    def begin_rounds(self, rounds: range) -> None:
        self.num_rounds = rounds.stop

    def after_round(self, stats: RoundStats, driver: RoundDriver) -> None:
        self.ended_s.append(time.monotonic() - self.began)
        used = [process.cpu_times() for process in _processes()]
        self.cpu_s.append(sum(times.user + times.system for times in used))
        if stats.round_idx + 1 == self.num_rounds:
            self.memory_mb = sum(p.memory_info().rss for p in _processes()) / 2**20
            raise Enough


def _processes() -> list[psutil.Process]:
    """Return this process, its client actors and their driver."""
    this = psutil.Process()
    actors = ("ray::ClientActor", "ray::Driver")
    children = this.children(recursive=True)
    return [this, *(p for p in children if "".join(p.cmdline()[:1]).startswith(actors))]


def measure_one(size: int, num_rounds: int, overrides: list[str]) -> dict[str, float]:
    """Return what one run took: to the end of round 1, in a later round, and its memory in MiB."""
    watch = Stopwatch()
    with tempfile.TemporaryDirectory() as root:
        rounds = (f"federation.num_clients={size}", f"federation.num_rounds={num_rounds}")
        config = load_config("smoke", [*SETTINGS, f"tracking.root={root}", *rounds, *overrides])
        with contextlib.suppress(Enough):
            run_experiment(config, "smoke", watch)
    found = {"num_clients": size, "memory_mb": watch.memory_mb}
    for name, noted in {"s": watch.ended_s, "cpu_s": watch.cpu_s}.items():
        found[f"first_round_ended_{name}"] = noted[0]
        found[f"round_{name}"] = statistics.median(b - a for a, b in itertools.pairwise(noted))
    return found


def in_a_process(size: int, num_rounds: int, overrides: list[str]) -> dict[str, float]:
    """Return what `measure_one` returns in a fresh process."""
    command = [sys.executable, __file__, "--one", str(size), "--rounds", str(num_rounds)]
    done = subprocess.run([*command, *overrides], check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def summary(runs: list[dict[str, float]]) -> list[dict[str, float]]:
    """Return the median of each number for each size, and how it compares with the smallest."""
    rows = []
    for size in sorted({run["num_clients"] for run in runs}):
        same = [run for run in runs if run["num_clients"] == size]
        row = {key: statistics.median(run[key] for run in same) for key in same[0]}
        first = rows[0] if rows else row
        row["round_ratio"] = row["round_s"] / first["round_s"]
        row["more_start_s"] = row["first_round_ended_s"] - first["first_round_ended_s"]
        row["more_memory_mb"] = row["memory_mb"] - first["memory_mb"]
        rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--sizes", nargs="+", type=int, default=list(SIZES))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/population.json"))
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    args = parser.parse_intermixed_args()
    if args.one is not None:
        print(json.dumps(measure_one(args.one, args.rounds, args.overrides)))
        return
    runs = []
    for _ in range(args.repeats):
        for size in args.sizes:
            runs.append(in_a_process(size, args.rounds, args.overrides))
            print(json.dumps(runs[-1]), flush=True)
    told = {
        "command": " ".join(["python", "benchmarks/population.py", *sys.argv[1:]]),
        "commit": git_revision(),
        "machine": f"{platform.machine()}, {os.cpu_count()} CPUs",
        "settings": [*SETTINGS, *args.overrides],
        "summary": summary(runs),
        "runs": runs,
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(told, indent=1) + "\n")
    print(json.dumps(told["summary"], indent=1))


if __name__ == "__main__":
    main()
