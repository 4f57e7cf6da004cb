"""How fast this package is, part by part, each beside what plain PyTorch does for the same.

    GLIBC_TUNABLES=glibc.malloc.hugetlb=1 python benchmarks/engine.py --out X.json

So that this process and the plain ones have their memory as client actors do: in huge pages.
The systems of a part are timed alternately, so that all of them meet the same machine; medians are
reported, of wall time and of CPU time of the processes that do a system's work (this one and its
two workers; Ray's own daemons show in the wall time alone). Ratios are taken to the first of each
part, the plain one except in `batches`, for equal work. On a machine that does other work, only the
CPU seconds and their ratios mean something.
"""

import argparse
import dataclasses
import datetime
import json
import os
import platform
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from engine_clients import time_adaptation, time_batches, time_sampling
from engine_kid import time_kid
from engine_rounds import (
    WORKS,
    check_same_network,
    config_for,
    first_round,
    time_aggregation,
    time_rounds,
    time_startup,
    time_step,
)

from pipeline.clients.context import keep_freed_memory

PARTS: dict[str, Callable[[int], dict[str, Any]]] = {
    "step": time_step,
    "rounds": time_rounds,
    "startup": time_startup,
    "aggregation": time_aggregation,
    "adaptation": time_adaptation,
    "batches": time_batches,
    "sampling": time_sampling,
    "kid": time_kid,
}


def where() -> dict[str, Any]:
    """Commit, machine and load."""
    git = ["git", "-C", str(Path(__file__).parent)]
    commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True)
    changed = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True)
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = {line.partition(":")[2].strip() for line in lines if line.startswith("model name")}
    return {
        "when": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": commit.stdout.strip(),
        "has_uncommitted_changes": bool(changed.stdout.strip()),
        "cpu": sorted(names) or platform.processor(),
        "num_cpus": os.cpu_count(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "glibc_tunables": os.environ.get("GLIBC_TUNABLES"),
        "load_average_at_start": os.getloadavg(),
        "default_client": dataclasses.asdict(config_for(8, "auto").client),
    }


def table(parts: dict[str, dict[str, Any]]) -> str:
    """Return all parts as one Markdown table; milliseconds are those of a unit of work."""
    lines = [
        "| part | system | ms | CPU ms | ratio | CPU ratio |",
        "|---|---|--:|--:|--:|--:|",
    ]
    for part, timed in parts.items():
        for system, own in timed.items():
            wall, cpu = (
                "-"
                if own[f"{clock}_s"] is None
                else f"{1000 * own[f'{clock}_s'] / own['units']:.4g}"
                for clock in ("wall", "cpu")
            )
            ratios = (
                "-" if own[k] is None else f"{own[k]:.2f}" for k in ("wall_ratio", "cpu_ratio")
            )
            lines.append(f"| {part} | {system} | {wall} | {cpu} | {' | '.join(ratios)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--out", type=Path, default=Path("build/engine.json"))
    parser.add_argument("--repeats", type=int, default=5)
    text = "time this alone; name another --out to keep the other parts"
    parser.add_argument("--only", choices=PARTS, help=text)
    parser.add_argument("--first-round", choices=("ray", "local"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()  # as a `ClientWorker` does; the plain loop's processes are on their own
    if args.first_round:
        first_round(args.first_round)
        return
    for work in WORKS.values():
        check_same_network(work.width)
    told, parts = where(), {}
    for name in [args.only] if args.only else PARTS:
        parts |= PARTS[name](args.repeats)
    told["load_average_at_end"] = os.getloadavg()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps({"where": told, "parts": parts}, indent=1) + "\n")
    print(table(parts))


if __name__ == "__main__":
    main()
