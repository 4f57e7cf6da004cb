"""Memory of a round by the size of its cohort, in real runs of one process each on two actors.

Counted, every 0.1 s: the private memory of the driver and of all client actors, the memory of the
run's own process, and the allocated part of Ray's object store. Writes one JSON.

    python benchmarks/cohort_memory.py --out build/cohort-memory.json
    python benchmarks/cohort_memory.py --preset mnist --cohorts 100 --rounds 1 \\
        --out build/cohort-memory-36m.json client.batch_size=2
"""

import argparse
import contextlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil

from pipeline.config.load import load_config
from pipeline.experiment.run import run_experiment
from pipeline.experiment.watcher import Watcher
from pipeline.federation.driver import Driver
from pipeline.federation.rounds import RoundStats
from pipeline.files.paths import git_revision

COHORTS = (10, 80, 640)
SMALL = ("model.width=64", "model.multipliers=[1,2,2]")  # 3.9 million parameters, of smoke
SETTINGS = (
    "partition=independent",
    "partition.client_size=64",
    "federation.num_new_clients=1",
    "federation.local_epochs=null",
    "federation.tau=1",
    "eval.every=0",
    "eval.num_clients=2",
    "tracking.enabled=false",
    "tracking.checkpoint_every=0",
    "resources.num_actors=2",
)
MIB = 2**20


class Enough(Exception):
    """Ends a run when its rounds are over."""


class Scales(Watcher):
    """Weighs the processes of a run until its last round has ended."""

    def __init__(self) -> None:
        self.peak: dict[str, float] = {}
        self.most = 0.0  # of driver, client actors and store at once
        self.round_s: list[float] = []
        self._last_round, self._is_over = 0, threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def begin_rounds(self, rounds: range) -> None:
        self._last_round = rounds.stop
        self._thread.start()

    def after_round(self, stats: RoundStats, driver: Driver) -> None:
        self.round_s.append(stats.train_s + stats.aggregate_s)
        if stats.round_idx + 1 == self._last_round:
            self._is_over.set()
            self._thread.join()
            raise Enough

    def _run(self) -> None:
        while not self._is_over.wait(0.1):
            now = weights()
            for name, size in now.items():
                self.peak[name] = max(size, self.peak.get(name, 0.0))
            counted = sum(size for name, size in now.items() if name != "run")
            self.most = max(self.most, counted)


def weights() -> dict[str, float]:
    """Return the MiB of each kind of process of this one's Ray, and of its object store."""
    this = psutil.Process()
    found = {"run": private_bytes(this) / MIB, "driver": 0.0, "client actors": 0.0, "store": 0.0}
    for child in this.children(recursive=True):
        with contextlib.suppress(psutil.Error, OSError):
            title = "".join(child.cmdline()[:1])
            if title.startswith("ray::Driver"):
                found["driver"] += private_bytes(child) / MIB
            elif title.startswith("ray::ClientActor"):
                found["client actors"] += private_bytes(child) / MIB
            elif child.name() == "raylet":
                found["store"] = store_bytes(child.pid) / MIB
    return found


def private_bytes(process: psutil.Process) -> int:
    memory = process.memory_info()
    return memory.rss - memory.shared


def store_bytes(raylet: int) -> int:
    """Return the allocated bytes of the files that Ray's node process keeps objects in."""
    blocks = {}
    for link in Path(f"/proc/{raylet}/fd").iterdir():
        with contextlib.suppress(OSError):
            if "plasma" in os.readlink(link):
                status = os.stat(link)
                blocks[status.st_ino] = status.st_blocks
    return 512 * sum(blocks.values())


def measure_one(preset: str, cohort: int, num_rounds: int, overrides: list[str]) -> dict:
    """Return the peaks in MiB and the seconds of a run's rounds."""
    scales = Scales()
    sizes = [f"federation.num_clients={cohort}", f"federation.cohort_size={cohort}"]
    with tempfile.TemporaryDirectory() as root:
        words = [*SETTINGS, *sizes, f"federation.num_rounds={num_rounds}"]
        config = load_config(preset, [*words, f"tracking.root={root}", *overrides])
        with contextlib.suppress(Enough):
            run_experiment(config, preset, scales)
    rounded = {name: round(size) for name, size in scales.peak.items()}
    found = {"cohort": cohort, "peak_mib": rounded, "driver_actors_store_mib": round(scales.most)}
    return found | {"round_s": [round(s, 2) for s in scales.round_s]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--preset", default="smoke")
    parser.add_argument("--cohorts", nargs="+", type=int, default=list(COHORTS))
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("build/cohort-memory.json"))
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    args = parser.parse_intermixed_args()
    overrides = [*(SMALL if args.preset == "smoke" else ()), *args.overrides]
    if args.one is not None:
        print(json.dumps(measure_one(args.preset, args.one, args.rounds, overrides)))
        return
    rows = []
    for cohort in args.cohorts:
        words = ["--preset", args.preset, "--one", str(cohort), "--rounds", str(args.rounds)]
        command = [sys.executable, __file__, *words, *args.overrides]
        began = time.monotonic()
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        rows.append(json.loads(done.stdout.splitlines()[-1]))
        rows[-1]["command_s"] = round(time.monotonic() - began, 1)
        print(json.dumps(rows[-1]), flush=True)
    told = {
        "command": " ".join(["python", "benchmarks/cohort_memory.py", *sys.argv[1:]]),
        "commit": git_revision(),
        "machine": f"{platform.machine()}, {os.cpu_count()} CPUs",
        "settings": [args.preset, *SETTINGS, *overrides],
        "rows": rows,
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main()
