"""Bytes between two Ray nodes on loopback in a round, by the size of its cohort.

One client actor on each node, the driver on the first. Counted are the bytes over the loopback
device in the rounds after the first, all of Ray's own messages included. Writes one JSON.

    python benchmarks/node_traffic.py --out benchmarks/results/node-traffic.json
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
from pathlib import Path

import psutil

from pipeline.config.load import load_config
from pipeline.experiment.run import run_experiment
from pipeline.experiment.watcher import Watcher
from pipeline.federation.driver import RoundDriver
from pipeline.federation.rounds import RoundStats
from pipeline.files.revision import git_revision

COHORTS = (10, 80, 320)
NUM_ROUNDS = 4
SETTINGS = (
    "model.width=64",  # 2.3 million parameters
    "partition=independent",
    "partition.client_size=64",
    "federation.num_new_clients=1",
    "federation.local_epochs=null",
    "federation.tau=1",
    "client.batch_size=2",
    "client.engine=loop",
    "eval.every=0",
    "eval.num_clients=2",
    "tracking.enabled=false",
    "tracking.checkpoint_every=0",
    "resources.num_actors=2",
    f"federation.num_rounds={NUM_ROUNDS}",
)


class Enough(Exception):
    """Ends a run when its rounds are over."""


class Meter(Watcher):
    """Notes the bytes that have gone over the loopback device after each round."""

    def __init__(self) -> None:
        self.sent: list[int] = []
        self.update_bytes = 0

    def after_round(self, stats: RoundStats, driver: RoundDriver) -> None:
        self.sent.append(psutil.net_io_counters(pernic=True)["lo"].bytes_sent)
        self.update_bytes = stats.up_bytes
        if len(self.sent) == NUM_ROUNDS:
            raise Enough


def measure_one(cohort: int) -> dict[str, float]:
    """Return the MB of a later round on a cluster of two nodes, and those of all updates."""
    import ray
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 1, "object_store_memory": 500_000_000}
    nodes = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    nodes.add_node(num_cpus=1, object_store_memory=500_000_000)
    ray.init(address=nodes.address, log_to_driver=False)
    meter = Meter()
    sizes = [f"federation.num_clients={cohort}", f"federation.cohort_size={cohort}"]
    try:
        with tempfile.TemporaryDirectory() as root, contextlib.suppress(Enough):
            config = load_config("smoke", [*SETTINGS, *sizes, f"tracking.root={root}"])
            run_experiment(config, "smoke", meter)
    finally:
        ray.shutdown()
        nodes.shutdown()
    rounds = [(after - before) / 1e6 for before, after in itertools.pairwise(meter.sent)]
    mb = round(statistics.median(rounds), 2)
    return {"cohort": cohort, "round_mb": mb, "updates_mb": round(meter.update_bytes / 1e6, 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--cohorts", nargs="+", type=int, default=list(COHORTS))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/node-traffic.json"))
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one is not None:
        print(json.dumps(measure_one(args.one)))
        return
    rows = []
    for cohort in args.cohorts:
        command = [sys.executable, __file__, "--one", str(cohort)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        rows.append(json.loads(done.stdout.splitlines()[-1]))
        print(json.dumps(rows[-1]), flush=True)
    told = {
        "command": " ".join(["python", "benchmarks/node_traffic.py", *sys.argv[1:]]),
        "commit": git_revision(),
        "machine": f"{platform.machine()}, {os.cpu_count()} CPUs",
        "settings": ["smoke", *SETTINGS],
        "rows": rows,
    }
    args.out.write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main()
