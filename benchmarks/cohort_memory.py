"""Memory of a round by the size of its cohort, in a real run on two actors.

Counted, every 0.1 s: the private memory of the driver and of all client actors, and the allocated
part of Ray's object store.

    for cohort in 10 80 640; do python benchmarks/cohort_memory.py $cohort; done
    python benchmarks/cohort_memory.py 100 --preset mnist --rounds 1 client.batch_size=2
"""

import argparse
import contextlib
import os
import tempfile
import threading
from pathlib import Path

import psutil

from pipeline.config.load import load_config
from pipeline.experiment.run import run_experiment
from pipeline.experiment.watcher import Watcher
from pipeline.federation.driver import Driver
from pipeline.federation.rounds import RoundStats

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


class Enough(Exception):
    """Ends a run when its rounds are over."""


class Scales(Watcher):
    """Weighs the processes of a run until its last round has ended."""

    def __init__(self) -> None:
        self.peak = 0.0  # MiB
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
            self.peak = max(self.peak, weight())


def weight() -> float:
    """Return the MiB of this process's Ray: private memory of actors, and its object store."""
    total = 0
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error, OSError):
            if "".join(child.cmdline()[:1]).startswith(("ray::Driver", "ray::ClientActor")):
                memory = child.memory_info()
                total += memory.rss - memory.shared
            elif child.name() == "raylet":
                total += store_bytes(child.pid)
    return total / 2**20


def store_bytes(raylet: int) -> int:
    """Return the allocated bytes of the files that Ray's node process keeps objects in."""
    blocks = {}
    for link in Path(f"/proc/{raylet}/fd").iterdir():
        with contextlib.suppress(OSError):
            if "plasma" in os.readlink(link):
                status = os.stat(link)
                blocks[status.st_ino] = status.st_blocks
    return 512 * sum(blocks.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("cohort", type=int)
    parser.add_argument("--preset", default="smoke")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    args = parser.parse_intermixed_args()
    scales = Scales()
    with tempfile.TemporaryDirectory() as root:
        words = [*SETTINGS, *(SMALL if args.preset == "smoke" else ()), f"tracking.root={root}"]
        words += [f"federation.num_clients={args.cohort}", f"federation.cohort_size={args.cohort}"]
        words += [f"federation.num_rounds={args.rounds}", *args.overrides]
        with contextlib.suppress(Enough):
            run_experiment(load_config(args.preset, words), args.preset, scales)
    print(f"{scales.peak:.0f} MiB; seconds of the rounds:", [round(s, 2) for s in scales.round_s])


if __name__ == "__main__":
    main()
