"""Fingerprints of small runs that between them take every path: two versions are compared by them.

    python benchmarks/fingerprints.py --out benchmarks/results/fingerprints.json
    python benchmarks/fingerprints.py --compare benchmarks/results/fingerprints.json

Each run is a command in a process of its own with a fresh SPIRE_ROOT, on real MNIST; only what it
prints with `--json` is read. `fingerprint` is the run's `state_fingerprint`: backbone and clients'
own parts, after adaptation. `scores_hash` is of all metrics but durations, and `samples_hash` of
the picture that the run draws. `--compare` names the runs of which one of these, the partition or
the configuration's fingerprint differs. The exit code is 1 if there is one, or if the runs that
must agree (another pool, more actors, SIGKILL and resume) do not.

The numbers are those of one kind of machine and one version of torch: on others all may differ.
Needs `SPIRE_DATA`, or fetches MNIST into ./data. All runs take about four minutes on two cores.
"""

import argparse
import hashlib
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
COMMAND_S = 300.0  # for one command, however busy the machine is
KILLED_AFTER = "round 3"  # of 6, as the progress on stderr says it
NOT_SCORES = ("time/", "memory/", "duration")
COMPARED = ("fingerprint", "scores_hash", "samples_hash", "partition_hash", "config_fingerprint")
BASE = (
    "tracking.enabled=false",
    "tracking.checkpoint_every=1",
    "resources.pool=local",
    "partition=inner_dirichlet",
    "partition.client_size=48",
    "federation.num_clients=5",
    "federation.num_new_clients=2",
    "federation.cohort_size=3",
    "federation.num_rounds=6",
    "client.opt_state=average",
    "client.group_size=2",
    "adapt.epochs=3",
    "adapt.num_images=24",
    "diffusion.sample_steps=2",
    "eval.every=3",
    "eval.num_images=8",
    "eval.num_loss_images=8",
    "eval.kid_num_subsets=2",
)
RUNS: dict[str, tuple[str, ...]] = {  # name: what is set on top of BASE
    "spire": (),
    "fedavg_ft": ("method=fedavg_ft", "adapt.tune_epochs=1"),
    "shared_rep": ("method=shared_rep",),
    "fedavg": ("method=fedavg",),
    "local": ("method=local",),
    "killed-resumed": (),
    "ray-1-actor": ("resources.pool=ray", "resources.num_actors=1"),
    "ray-2-actors": ("resources.pool=ray", "resources.num_actors=2"),
    "engine-loop": ("client.engine=loop",),
    "engine-grouped": ("client.engine=grouped",),
    "precision-bf16": ("client.precision=bf16",),
    "compression-int8": ("client.compression=int8",),
    "compression-top_k": ("client.compression=top_k", "client.top_k_fraction=0.1"),
    "opt_state-reset": ("client.opt_state=reset",),
    "private_moments-none": ("client.private_moments=none",),
    "shared_rep-alternate": ("method=shared_rep", "method.phases=alternate"),
    "adapt-early_stopping": (  # a rate at which it stops
        "adapt.early_stopping=true",
        "adapt.epochs=8",
        "adapt.lr=10",
    ),
    "adapt-init-mean": ("adapt.init=mean",),
    "server-fedavgm-ema": ("server.optimizer=fedavgm", "server.ema=0.8"),
    "server-fedadam-ema": ("server.optimizer=fedadam", "server.lr=0.001", "server.ema=0.8"),
    "server-median": ("server.aggregation=median",),
    "dropped-stragglers": ("federation.drop_rate=0.4", "federation.straggler_rate=0.5"),
    "dropped-stragglers-ray": (
        "federation.drop_rate=0.4",
        "federation.straggler_rate=0.5",
        "resources.pool=ray",
        "resources.num_actors=2",
    ),
    "local_epochs": ("federation.local_epochs=1", "partition=iid"),
    "eps-linear-ddim": (
        "diffusion.prediction=eps",
        "diffusion.schedule=linear",
        "diffusion.sampler=ddim",
        "eval.guidance=1.5",
    ),
    "population": (
        "partition=independent",
        "federation.num_clients=2000",
        "eval.num_clients=4",
        "seed=1",
    ),
}
SAME = {  # runs whose numbers must be those of another
    "killed-resumed": "spire",
    "ray-1-actor": "spire",
    "ray-2-actors": "spire",
    "dropped-stragglers-ray": "dropped-stragglers",
}


class Failed(Exception):
    """A command did not end as it should."""


def environment(root: Path) -> dict[str, str]:
    """Return what a command finds: this checkout's code, and a root of its own."""
    env = {k: v for k, v in os.environ.items() if k not in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI")}
    env["PYTHONPATH"] = os.pathsep.join([str(REPOSITORY), *filter(None, [env.get("PYTHONPATH")])])
    return env | {"SPIRE_ROOT": str(root), "SPIRE_DATA": data_root()}


def data_root() -> str:
    return os.environ.get("SPIRE_DATA") or str(Path("data").resolve())


def spire(root: Path, *words: str) -> dict[str, Any]:
    """Run a command and return the object that it prints."""
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", *words, "--json"],
        cwd=REPOSITORY,
        env=environment(root),
        capture_output=True,
        text=True,
        timeout=COMMAND_S,
    )
    if done.returncode != 0:
        raise Failed(f"exit code {done.returncode}: {done.stderr[-2000:]}")
    return json.loads(done.stdout)


def start_and_kill(root: Path, *words: str) -> None:
    """Start a command and send SIGKILL when its progress says KILLED_AFTER."""
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline", *words, "--json"],
        cwd=REPOSITORY,
        env=environment(root),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    with process:
        for line in process.stderr:
            if line.startswith(KILLED_AFTER):
                process.kill()
    if process.returncode != -signal.SIGKILL:
        raise Failed(f"ended by itself with {process.returncode}, before SIGKILL")


def run_one(name: str) -> dict[str, Any]:
    """Return the numbers of one run, and the command that gives them."""
    words = ("run", "smoke", *BASE, *RUNS[name])
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="spire-") as folder:
        root = Path(folder)
        if name == "killed-resumed":
            start_and_kill(root, *words)
            told = spire(root, "resume", "last")
        else:
            told = spire(root, *words)
        samples = Path(told["artifacts"]["samples"]).read_bytes()
    scores = {
        key: value
        for key, value in told["metrics"].items()
        if not any(part in key for part in NOT_SCORES)
    }
    return {
        "fingerprint": told["state_fingerprint"],
        "scores_hash": sha256(json.dumps([scores, told["diagnoses"]], sort_keys=True).encode()),
        "samples_hash": sha256(samples),
        "partition_hash": told["partition_hash"],
        "config_fingerprint": told["config_fingerprint"],
        "command": " ".join(["python", "-m", "pipeline", *words, "--json"]),
        "seconds": round(time.monotonic() - began, 1),
    }


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def differing(now: dict[str, Any], then: dict[str, Any]) -> list[str]:
    """Return the names of the numbers in which two runs differ."""
    return [key for key in COMPARED if now[key] != then[key]]


def disagreements(runs: dict[str, Any]) -> list[str]:
    """Return a line for each run that must have the numbers of another and does not."""
    lines = []
    for name, other in SAME.items():
        if name in runs and other in runs and (keys := differing(runs[name], runs[other])):
            lines.append(f"{name} is not like {other}: {', '.join(keys)}")
    return lines


def changes(runs: dict[str, Any], before: dict[str, Any]) -> list[str]:
    """Return a line for each run that is new, or whose numbers are not those from before."""
    lines = []
    for name, now in runs.items():
        if name not in before:
            lines.append(f"{name}: not in the file")
        elif keys := differing(now, before[name]):
            lines.append(f"{name} differs: {', '.join(keys)}")
    return lines


def machine() -> dict[str, str]:
    """Return what the numbers depend on beside the code."""
    cpus = Path("/proc/cpuinfo")
    lines = cpus.read_text().splitlines() if cpus.exists() else []
    model = next(
        (line.split(":")[1].strip() for line in lines if line.startswith("model name")), ""
    )
    return {"cpu": model or platform.machine(), "torch": version("torch")}


def revision() -> str:
    """Return the commit, and whether the code beside the benchmarks has changes."""

    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=REPOSITORY, capture_output=True, text=True)
        return done.stdout.strip()

    changed = git("status", "--porcelain", "--", "spire_core", "pipeline", "sweeps")
    return git("rev-parse", "HEAD") + (" with changes" if changed else "")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--out", type=Path, help="write the numbers as JSON")
    parser.add_argument("--compare", type=Path, metavar="FILE", help="numbers from before")
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=RUNS, default=list(RUNS))
    args = parser.parse_args(argv)
    before = json.loads(args.compare.read_text()) if args.compare else None
    began, runs, failed = time.monotonic(), {}, []
    with tempfile.TemporaryDirectory(prefix="spire-") as root:
        spire(Path(root), "data", "fetch", "mnist")
    for name in args.only:
        try:
            runs[name] = run_one(name)
        except (Failed, subprocess.TimeoutExpired) as error:
            print(f"{name}: {error}", flush=True)
            failed.append(f"{name} failed")
        else:
            own = runs[name]
            print(f"{name:24} {own['fingerprint'][:16]} {own['seconds']:6.1f} s", flush=True)
    told = {"commit": revision(), "machine": machine(), "runs": runs}
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(told, indent=1) + "\n")
    print(f"{len(runs)} runs in {time.monotonic() - began:.0f} s, commit {told['commit']}")
    lines = failed + disagreements(runs)
    if before is not None:
        if before["machine"] != told["machine"]:
            print(f"another machine: {before['machine']} then, {told['machine']} now")
        lines += changes(runs, before["runs"])
    print("\n".join(lines) or "all as expected")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
