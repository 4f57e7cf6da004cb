"""Measures SPIRE beside plain PyTorch, Flower and pfl-research on the same work, in turns.

    make bench-peers
    .venv/bin/python -m benchmarks.peers.run --rounds 3 --repeats 1 --works tiny

Every system is a process of its own that prints a line as each round ends; all else is read off
from outside, in the same way for all. Results: build/peers.json.
"""

import argparse
import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from benchmarks.peers.work import DATA, NUM_PROCESSES, WORKS
from pipeline.config.data import DataConfig
from pipeline.data.datasets import load
from pipeline.data.resize import resized
from spire_core.rng import numpy_generator

RESULTS = Path("build/peers.json")
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
    "ours-local-loop": (OURS, (), "ours", ("--pool=local", "--engine=loop")),  # one process
    "ours-local-grouped": (OURS, (), "ours", ("--pool=local", "--engine=grouped")),
}
IN_TURNS = ["plain", "ours-loop", "ours-grouped", "flower", "pfl"]
PACKAGES = ("torch", "numpy", "ray", "flwr", "pfl")
SAMPLE_S = 0.25
LIMIT_S = 1800.0
TOLERANCE = 1e-3  # between the losses of two systems, as a share


class Watched:
    """A process and all below it: CPU seconds so far, and the peaks of their memory.

    `peak_bytes` adds up resident memory, where shared pages count for each process that has them;
    `peak_share_bytes` proportional set sizes, where these pages count once in all.
    """

    def __init__(self, command: Sequence[str], log: Path) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        settings = {  # equal priority for every worker; no messages to the outside
            "PYTHONPATH": os.getcwd(),
            "RAY_worker_niceness": "0",
            "FLWR_TELEMETRY_ENABLED": "0",
        }
        self.began = time.time()
        self.peak_bytes = self.peak_share_bytes = 0
        with log.open("w") as err:
            self.process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=err, text=True, env=os.environ | settings
            )
        self.root = psutil.Process(self.process.pid)
        self.sampler = threading.Thread(target=self._sample, daemon=True)
        self.sampler.start()

    def _tree(self) -> list[psutil.Process]:
        try:
            return [self.root, *self.root.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def _sample(self) -> None:
        while self.process.poll() is None:
            is_late, total, share = time.time() - self.began > LIMIT_S, 0, 0
            for process in self._tree():
                with contextlib.suppress(psutil.NoSuchProcess):
                    memory = process.memory_full_info()
                    total, share = total + memory.rss, share + memory.pss
                    if is_late:
                        process.kill()
            self.peak_bytes = max(self.peak_bytes, total)
            self.peak_share_bytes = max(self.peak_share_bytes, share)
            time.sleep(SAMPLE_S)

    def cpu_s(self) -> float:
        """Return user and system seconds of all processes, those that have ended included."""
        total = 0.0
        for process in self._tree():
            with contextlib.suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                total += times.user + times.system + times.children_user + times.children_system
        return total


def measure(system: str, work: str, num_rounds: int) -> dict[str, Any]:
    """Run one system on one work and return what was measured."""
    python, before, module, after = SYSTEMS[system]
    command = [python, *before, "-m", f"benchmarks.peers.{module}", work, str(num_rounds), *after]
    load_before, log = os.getloadavg()[0], ENVIRONMENTS / "logs" / f"{system}-{work}.log"
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
        "system": system,
        "work": work,
        "num_rounds": num_rounds,
        "round_s": statistics.median(np.diff(ends).tolist()),
        "first_round_end_s": ends[0] - watched.began,
        "cpu_s_per_round": statistics.median(np.diff(cpu_s).tolist()),
        "peak_rss_bytes": watched.peak_bytes,
        "peak_pss_bytes": watched.peak_share_bytes,
        "losses": [r["loss"] for r in rounds],
        "load_before": load_before,
    }


def prepare_data() -> None:
    """Deal 100 images of MNIST at 16 x 16 to each of the most clients that any work has."""
    num_clients = max(work.num_clients for work in WORKS.values())
    images = load(DataConfig(name="mnist"), "train").images
    drawn = numpy_generator(0, "peers").permutation(len(images))[: num_clients * 100]
    DATA.parent.mkdir(parents=True, exist_ok=True)
    np.save(DATA, resized(images[np.sort(drawn)], 16).reshape(num_clients, 100, 1, 16, 16))


def versions(python: str) -> dict[str, str]:
    """Return the versions of the packages that matter in an environment."""
    script = (
        "import importlib.metadata as m, json; d = {x.metadata['Name']: x.version for x in "
        f"m.distributions()}}; print(json.dumps({{n: d[n] for n in {PACKAGES} if n in d}}))"
    )
    return json.loads(subprocess.check_output([python, "-c", script], text=True))


def circumstances(systems: Sequence[str]) -> dict[str, Any]:
    """Return when, where and with what it is measured."""
    cpu = [
        line.split(":", 1)[1].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    git = ["git", "describe", "--always", "--dirty", "--abbrev=40"]
    return {
        "began": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": "python -m benchmarks.peers.run " + " ".join(sys.argv[1:]),
        "commit": subprocess.check_output(git, text=True).strip(),
        "cpu": cpu[0] if cpu else platform.processor(),
        "num_cpus": os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "python": platform.python_version(),
        "versions": {name: versions(SYSTEMS[name][0]) for name in systems},
    }


def median_of(records: Sequence[dict[str, Any]], key: str) -> float:
    return statistics.median(r[key] for r in records)


def table(records: Sequence[dict[str, Any]]) -> str:
    """Return medians over the repeats as Markdown; times also as a ratio to plain's."""
    lines = [
        "| work | system | s/round | min to max | x plain | CPU-s/round | end of round 1, s "
        "| peak MB | shared once, MB | last loss | load |",
        "|---|---|--:|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for record in records:
        groups.setdefault((record["work"], record["system"]), []).append(record)
    for (work, system), own in groups.items():
        times = sorted(r["round_s"] for r in own)
        plain = groups.get((work, "plain"))
        ratio = f"{median_of(own, 'round_s') / median_of(plain, 'round_s'):.2f}" if plain else "-"
        lines.append(
            f"| {work} | {system} | {median_of(own, 'round_s'):.3f} "
            f"| {times[0]:.3f} to {times[-1]:.3f} | {ratio} "
            f"| {median_of(own, 'cpu_s_per_round'):.2f} "
            f"| {median_of(own, 'first_round_end_s'):.1f} "
            f"| {median_of(own, 'peak_rss_bytes') / 1e6:.0f} "
            f"| {median_of(own, 'peak_pss_bytes') / 1e6:.0f} | {own[0]['losses'][-1]:.6f} "
            f"| {median_of(own, 'load_before'):.1f} |"
        )
    return "\n".join(lines)


def check_losses(records: Sequence[dict[str, Any]]) -> None:
    """Refuse results whose losses differ: that would not have been the same work."""
    first: dict[str, dict[str, Any]] = {}
    for record in records:
        reference = first.setdefault(record["work"], record)
        ratios = np.divide(record["losses"], reference["losses"])
        if np.abs(ratios - 1).max() > TOLERANCE:
            raise SystemExit(
                f"expected the losses of {reference['system']} on {record['work']}, "
                f"{reference['losses']}, got {record['losses']} from {record['system']}: "
                "this is not the same work"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--works", nargs="+", choices=WORKS, default=list(WORKS))
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=IN_TURNS)
    parser.add_argument("--rounds", type=int, default=8, help="at least 2; the first is left out")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    if args.rounds < 2:
        parser.error(f"expected --rounds of at least 2, got {args.rounds}: the first is left out")
    prepare_data()
    results: dict[str, Any] = circumstances(args.systems) | {"records": []}
    for repeat in range(args.repeats):
        for work in args.works:
            for system in args.systems:
                record = measure(system, work, args.rounds)
                results["records"].append(record)
                print(
                    f"{repeat + 1}/{args.repeats} {work} {system}: "
                    f"{record['round_s']:.3f} s/round, load {record['load_before']:.1f}",
                    flush=True,
                )
    print(table(results["records"]))
    check_losses(results["records"])
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
