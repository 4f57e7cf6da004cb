"""Seconds of a round in this checkout beside another one, in turns, each run in a process.

The works are those of benchmarks/peers, with Adam's moments averaged as users have it, and the
preset `mnist-cpu`. Ratios of CPU-seconds are less affected by a busy machine than those of wall
time. Prints and writes one JSON.

    python benchmarks/two_checkouts.py ../before --out benchmarks/results/two-checkouts.json
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parents[1]
COMMON = ["partition=independent", "partition.client_size=64", "eval.num_clients=1"]
COMMON += ["federation.num_new_clients=0", "tracking.enabled=false"]
WORKS = {  # preset, clients of a round, overrides
    "mnist-cpu": ("mnist-cpu", 4, []),
    "tiny": ("smoke", 20, ["model.width=8", "federation.tau=4"]),
    "small": ("smoke", 20, ["model.width=16", "federation.tau=4"]),
    "many": ("smoke", 200, ["model.width=8", "federation.tau=1"]),
}
CHILD = """
import contextlib, json, statistics, sys, tempfile, time
from pathlib import Path
import psutil
from pipeline.config.load import load_config
from pipeline.experiment.pools import open_pool
from pipeline.federation.driver import Driver
from pipeline.federation.rounds import RoundSettings
from pipeline.federation.setup import prepare
from spire_core.federated.server import ServerState
from spire_core.network.flat_model import initial_weights

def cpu_s():
    total, this = 0.0, psutil.Process()
    for process in (this, *this.children(recursive=True)):
        with contextlib.suppress(psutil.Error):
            times = process.cpu_times()
            total += times.user + times.system
    return total

preset, num_rounds, *words = sys.argv[1:]
config = load_config(preset, words)
setting = prepare(config)
weights = initial_weights(config.model, config.method, setting.images.shape[1], 0).numpy()
rounds = RoundSettings.of(config, setting.partition.train_sizes, setting.model.layout)
wall, cpu = [], []
with tempfile.TemporaryDirectory() as folder, open_pool(setting, Path(folder)) as (pool, make):
    driver = make(pool, ServerState.initial(weights), rounds)
    driver.run_round()
    for _ in range(int(num_rounds)):
        began, before = time.perf_counter(), cpu_s()
        driver.run_round()
        wall.append(time.perf_counter() - began)
        cpu.append(cpu_s() - before)
    driver.close()
print(json.dumps([statistics.median(wall), statistics.median(cpu)]))
"""


def one(checkout: Path, work: str, pool: str, num_rounds: int) -> list[float]:
    """Return the median wall and CPU-seconds of a round in a process of its own."""
    preset, cohort, more = WORKS[work]
    sizes = [f"federation.num_clients={cohort}", f"federation.cohort_size={cohort}"]
    workers = [f"resources.pool={pool}", "resources.num_actors=2"]
    words = [*COMMON, *sizes, *workers, *more]
    command = [sys.executable, "-c", CHILD, preset, str(num_rounds), *words]
    env = os.environ | {"PYTHONPATH": str(checkout)}
    done = subprocess.run(command, check=True, env=env, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def compared(before: Path, work: str, pool: str, rounds: int, repeats: int) -> dict[str, object]:
    """Return medians over the repeats, and the ratios of this checkout to the other."""
    found: dict[Path, list[list[float]]] = {before: [], HERE: []}
    for repeat in range(repeats):
        for checkout in list(found)[:: 1 if repeat % 2 else -1]:
            found[checkout].append(one(checkout, work, pool, rounds))
    (wall, cpu), (new_wall, new_cpu) = (
        [statistics.median(column) for column in zip(*runs, strict=True)] for runs in found.values()
    )
    ratios = {"wall_ratio": round(new_wall / wall, 3), "cpu_ratio": round(new_cpu / cpu, 3)}
    seconds = {"before_s": round(wall, 4), "now_s": round(new_wall, 4)}
    return {"work": work, "pool": pool, **seconds, **ratios}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("before", type=Path)
    parser.add_argument("--works", nargs="+", default=list(WORKS), choices=list(WORKS))
    parser.add_argument("--pools", nargs="+", default=["local", "ray"])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/two-checkouts.json"))
    args = parser.parse_args()
    rows = []
    for pool in args.pools:
        for work in args.works:
            rows.append(compared(args.before.resolve(), work, pool, args.rounds, args.repeats))
            print(json.dumps(rows[-1]), flush=True)
    revisions = [
        subprocess.run(
            ["git", "describe", "--always", "--dirty"],
            cwd=folder,
            check=True,
            capture_output=True,
            text=True,
        ).stdout.strip()
        for folder in (args.before, HERE)
    ]
    told = {
        "command": " ".join(["python", "benchmarks/two_checkouts.py", *sys.argv[1:]]),
        "commits": revisions,
        "machine": f"{platform.machine()}, {os.cpu_count()} CPUs",
        "rows": rows,
    }
    args.out.write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main()
