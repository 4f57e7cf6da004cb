"""Measures SPIRE beside plain PyTorch, Flower and pfl-research on the same work, in turns.

    make bench-peers
    .venv/bin/python -m benchmarks.peers.run --rounds 3 --repeats 1 --works tiny

Every system is a process of its own that prints a line as each round ends; all else is read off
from outside, in the same way for all. Results: build/peers.csv.
"""

import argparse
import contextlib
import json
import os
import platform
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil

from benchmarks.peers.work import DATA, NUM_PROCESSES, WORKS
from pipeline.config.data import DataConfig
from pipeline.data.datasets import load
from pipeline.data.resize import resized
from pipeline.files.paths import git_revision
from spire_core.rng import numpy_generator

RESULTS = Path("build/peers.csv")
ENVIRONMENTS = Path("build/peers")
OURS, FLOWER, PFL = (
    sys.executable,
    *(str(ENVIRONMENTS / e / "bin/python") for e in ("flower", "pfl")),
)
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={NUM_PROCESSES}")
SYSTEMS = {  # the interpreter, what goes before the module, the module, what goes after the work
    "plain": (OURS, (), "plain", ()),
    "ours-loop": (OURS, (), "ours", ("--pool=ray", "--engine=loop")),
    "ours-grouped": (OURS, (), "ours", ("--pool=ray", "--engine=grouped")),
    "flower": (FLOWER, (), "flower", ()),
    "pfl": (PFL, TORCHRUN, "pfl_research", ()),
}
ENV = {  # equal priority for every worker; no messages to the outside
    "RAY_worker_niceness": "0",
    "FLWR_TELEMETRY_ENABLED": "0",
}
SAMPLE_S = 0.25
TOLERANCE = 1e-3  # between the losses of two systems, as a share


class Watched:
    """A process and all below it: CPU seconds so far, and the peak of their resident memory."""

    def __init__(self, command: Sequence[str], log: Path) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        self.began, self.peak_bytes = time.time(), 0
        env = os.environ | ENV | {"PYTHONPATH": os.getcwd()}
        with log.open("w") as err:
            self.process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=err, text=True, env=env
            )
        self.root = psutil.Process(self.process.pid)
        self.sampler = threading.Thread(target=self._sample, daemon=True)
        self.sampler.start()

    def _tree(self) -> list[psutil.Process]:
        with contextlib.suppress(psutil.NoSuchProcess):
            return [self.root, *self.root.children(recursive=True)]
        return []

    def _sample(self) -> None:
        while self.process.poll() is None:
            total = 0
            for process in self._tree():
                with contextlib.suppress(psutil.NoSuchProcess):
                    total += process.memory_info().rss
            self.peak_bytes = max(self.peak_bytes, total)
            time.sleep(SAMPLE_S)

    def cpu_s(self) -> float:
        """Return user and system seconds of all processes, those that have ended included."""
        total = 0.0
        for process in self._tree():
            with contextlib.suppress(psutil.NoSuchProcess):
                total += sum(process.cpu_times()[:4])  # its own, and those of ended children
        return total


def measure(system: str, work: str, num_rounds: int) -> dict[str, Any]:
    """Run one system on one work and return what was measured."""
    python, before, module, after = SYSTEMS[system]
    command = [python, *before, "-m", f"benchmarks.peers.{module}", work, str(num_rounds), *after]
    log = ENVIRONMENTS / "logs" / f"{system}-{work}.log"
    watched = Watched(command, log)
    rounds, cpu_s = [], []
    for line in watched.process.stdout or ():
        if line.startswith('{"round_idx"'):
            rounds.append(json.loads(line))
            cpu_s.append(watched.cpu_s())
    watched.process.wait()
    watched.sampler.join()
    if watched.process.returncode or [r["round_idx"] for r in rounds] != list(range(num_rounds)):
        raise SystemExit(f"{system} on {work}: {len(rounds)} of {num_rounds} rounds, see {log}")
    ends = [r["at"] for r in rounds]
    return {
        "work": work,
        "system": system,
        "round_s": np.median(np.diff(ends)),
        "cpu_s": np.median(np.diff(cpu_s)),
        "first_round_s": ends[0] - watched.began,
        "peak_mb": watched.peak_bytes / 1e6,
        "losses": [r["loss"] for r in rounds],
        "load": os.getloadavg()[0],
    }


def prepare_data() -> None:
    """Deal 100 images of MNIST at 16 x 16 to each of the most clients that any work has."""
    num_clients = max(work.num_clients for work in WORKS.values())
    images = load(DataConfig(name="mnist"), "train").images
    drawn = numpy_generator(0, "peers").permutation(len(images))[: num_clients * 100]
    DATA.parent.mkdir(parents=True, exist_ok=True)
    np.save(DATA, resized(images[np.sort(drawn)], 16).reshape(num_clients, 100, 1, 16, 16))


def check_losses(records: pd.DataFrame) -> None:
    """Refuse results whose losses differ: that would not have been the same work."""
    for work, own in records.groupby("work"):
        losses = np.array(own["losses"].tolist())
        if np.abs(losses / losses[0] - 1).max() > TOLERANCE:
            raise SystemExit(f"expected the same losses of all systems on {work}, got {losses}")


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--works", nargs="+", choices=WORKS, default=list(WORKS))
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS))
    parser.add_argument("--rounds", type=int, default=8, help="at least 2; the first is left out")
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    print(f"commit {git_revision()}, {platform.processor()}, {os.cpu_count()} CPUs", flush=True)
    prepare_data()
    records = []
    for _ in range(args.repeats):
        for work in args.works:
            for system in args.systems:
                records.append(measure(system, work, args.rounds))
                shown = {key: value for key, value in records[-1].items() if key != "losses"}
                print(shown, flush=True)
    found = pd.DataFrame(records)
    found.to_csv(RESULTS, index=False)
    medians = found.groupby(["work", "system"], sort=False).median(numeric_only=True)
    print(medians.to_string(float_format="{:.3f}".format))
    check_losses(found)


if __name__ == "__main__":
    main()
