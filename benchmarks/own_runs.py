"""What `spire resume` and `spire sync` of own runs cost, beside an earlier version's.

    git worktree add EARLIER COMMIT
    nice python benchmarks/own_runs.py EARLIER --out benchmarks/results/own-runs.json

Both versions make a run of their own (`smoke` in one process, with a checkpoint after each round)
and then do the same commands with it, taking turns: `resume` of the run as if it had been killed
after its last checkpoint, `sync` with nothing to deliver, and `sync` of all entries again. Of each
command and version: median wall and CPU seconds (user and system, of the process and its children)
and the median difference of pairs. CPU seconds are what counts on a machine with other work.
"""

import argparse
import contextlib
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.data.datasets import store_root
from pipeline.files.revision import git_revision
from pipeline.runs.layout import DONE, MODEL, RESULT

HERE = Path(__file__).resolve().parents[1]
NOT_INHERITED = ("MLFLOW_TRACKING_URI", "RAY_ADDRESS", "SPIRE_ROOT", "PYTHONDONTWRITEBYTECODE")
RUN = ("run", "smoke", "resources.pool=local", "tracking.checkpoint_every=1", "--quiet")
Cost = tuple[float, float]  # wall and CPU seconds


@dataclass(frozen=True)
class Version:
    """A checkout, and the root of a run that it has made."""

    checkout: Path
    root: Path

    def spire(self, *words: str) -> Cost:
        """Run a command and return what it cost; RuntimeError if it fails."""
        env = {k: v for k, v in os.environ.items() if k not in NOT_INHERITED}
        env |= {"PYTHONPATH": str(self.checkout), "SPIRE_DATA": str(store_root())}
        env["PYTHONPYCACHEPREFIX"] = f"{self.root}.bytecode"
        command = [sys.executable, "-m", "pipeline", *words]
        wall, cpu = time.perf_counter(), children_s()
        done = subprocess.run(command, cwd=self.root, env=env, capture_output=True, text=True)
        cost = time.perf_counter() - wall, children_s() - cpu
        if done.returncode != 0:
            raise RuntimeError(f"{self.checkout}: {' '.join(words)}: {done.stderr[-2000:]}")
        return cost

    def begin(self) -> None:
        """Make the run, and keep a copy of its root, unless there is one."""
        if self._kept.exists():
            return
        self.root.mkdir(parents=True)
        self.spire(*RUN)
        shutil.copytree(self.root, self._kept)

    @property
    def _kept(self) -> Path:
        return self.root.with_name(f"{self.root.name}.kept")

    def renew(self) -> Path:
        """Put the root back as it was, and return the run's folder."""
        shutil.rmtree(self.root)
        shutil.copytree(self._kept, self.root)
        os.sync()
        [run_dir] = (path.parent for path in self.root.glob(f"runs/*/{RESULT}"))
        return run_dir


def children_s() -> float:
    """Return the CPU seconds of the children that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def resume(version: Version) -> Cost:
    run_dir = version.renew()
    (run_dir / RESULT).unlink()
    shutil.rmtree(run_dir / MODEL)
    return version.spire("resume", run_dir.name, "--quiet")


def sync_nothing(version: Version) -> Cost:
    version.renew()
    return version.spire("sync")


def sync_again(version: Version) -> Cost:
    run_dir = version.renew()
    (run_dir / DONE).unlink()
    return version.spire("sync", run_dir.name)


COMMANDS: Mapping[str, Callable[[Version], Cost]] = {
    "resume": resume,
    "sync with nothing to deliver": sync_nothing,
    "sync of all entries again": sync_again,
}


def compared(command: Callable[[Version], Cost], versions: list[Version], pairs: int) -> Any:
    """Return the costs of a command by two versions that take turns."""
    costs: list[list[Cost]] = [[], []]
    for pair in range(-1, pairs):  # the first one only warms up
        for i in (0, 1) if pair % 2 == 0 else (1, 0):
            cost = command(versions[i])
            if pair >= 0:
                costs[i].append(cost)
    told: dict[str, Any] = {}
    for clock, at in (("wall", 0), ("cpu", 1)):
        before, now = ([cost[at] for cost in own] for own in costs)
        shares = [b / a - 1 for a, b in zip(before, now, strict=True)]
        middle = statistics.median(before)
        told[clock] = {
            "earlier_s": middle,
            "now_s": statistics.median(now),
            "share_of_medians": statistics.median(now) / middle - 1,
            "median_share_of_pairs": statistics.median(shares),
            "all": [before, now],
        }
    return told


def main() -> None:
    """Compare the commands and write the file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("earlier", type=Path, help="a checkout of the earlier version")
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--only", nargs="+", choices=list(COMMANDS), default=list(COMMANDS))
    text = "a folder that keeps the runs, for another call; a temporary one unless given"
    parser.add_argument("--keep", type=Path, metavar="DIR", help=text)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    results: dict[str, Any] = {}
    with contextlib.ExitStack() as stack:
        name = args.keep or stack.enter_context(tempfile.TemporaryDirectory(dir="."))
        folder = Path(name).resolve()
        earlier = Version(args.earlier.resolve(), folder / "earlier")
        versions = [earlier, Version(HERE, folder / "now")]
        for version in versions:
            version.begin()
        for what in args.only:
            results[what] = compared(COMMANDS[what], versions, args.pairs)
            cpu = results[what]["cpu"]
            print(
                f"{what}: {cpu['earlier_s']:.3f} s of CPU, now {cpu['now_s']:.3f} s "
                f"({cpu['median_share_of_pairs']:+.1%} by pairs), "
                f"load {os.getloadavg()[0]:.1f}",
                flush=True,
            )
    about = {"command": f"benchmarks/own_runs.py EARLIER --pairs {args.pairs}"}
    about |= {"commit": git_revision(), "earlier": git_revision(args.earlier / "pyproject.toml")}
    about |= {"system": platform.platform(), "cores": os.cpu_count(), "load": os.getloadavg()[0]}
    args.out.write_text(json.dumps({**about, "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
