"""Signals and losses of Ray at each stage of a small run: it ends in time, and goes on as if whole.

    nice python benchmarks/ray_faults.py [--only "raylet SIGKILL round" ...] [--json FILE]

One run after the other, with real MNIST, MLflow and Ray with one client actor. Of each fault: the
exit code, the seconds until the command ended, what still ran 15 s later, and whether `spire
resume` came to the state of a run that nothing happened to. Exit code 0 only if all did, in at most
90 s, and no exit code was another than expected.
"""

import argparse
import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ray_desk import Command, Missed

from pipeline.data.datasets import store_root

SETTINGS = ("tracking.checkpoint_every=1", "tracking.log_model=false", "federation.tau=2")
SETTINGS += ("federation.num_rounds=60", "eval.every=0", "eval.num_loss_images=8")
SETTINGS += ("eval.num_clients=2", "eval.num_images=16", "adapt.epochs=400")
START_S, END_S, LEFT_S = 300.0, 90.0, 15.0
NOT_0 = "not 0"
FAULTS = {  # whom and which signal: the exit code
    ("command", "SIGTERM"): 130,
    ("command", "SIGINT"): 130,
    ("group", "SIGINT"): 130,
    ("group", "SIGTERM"): NOT_0,
    ("raylet", "SIGKILL"): NOT_0,
    ("gcs_server", "SIGKILL"): NOT_0,
    ("command", "SIGKILL"): -signal.SIGKILL,
    ("DriverActor", "SIGKILL"): 2,
    ("ClientActor", "SIGKILL"): 0,
}
STAGES = ("start", "round", "adaptation")
NAMES = [" ".join((*fault, stage)) for fault, stage in itertools.product(FAULTS, STAGES)]


def run(folder: Path, *words: str) -> dict[str, Any]:
    """Type a command and return the object that it prints."""
    folder.mkdir(exist_ok=True)
    command = Command(folder, store_root(), *words)
    command.process.wait()
    return json.loads(command.out.read_text())


def wait_for_stage(command: Command, stage: str) -> None:
    """Wait until a run is in the middle of a stage; Missed if it ends before."""
    is_there: dict[str, Callable[[], bool]] = {
        "start": lambda: "starting the clients" in command.err.read_text(),
        "round": lambda: command.num_rounds >= 2,
        "adaptation": lambda: "adapting" in command.err.read_text(),
    }
    command.wait_until(is_there[stage], START_S)
    if stage == "adaptation":
        end = time.monotonic() + 1
        command.wait_until(lambda: time.monotonic() > end, START_S)


def outcome(name: str, folder: Path, expected: str) -> dict[str, Any]:
    """Cause a fault in a new run, and return what became of it."""
    whom, action, stage = name.split()
    number, code = getattr(signal, action), FAULTS[whom, action]
    folder.mkdir()
    command = Command(folder, store_root(), "run", "smoke", *SETTINGS, "resources.num_actors=1")
    row: dict[str, Any] = {"fault": name, "expected_code": code, "is_well": False}
    try:
        wait_for_stage(command, stage)
        if whom == "command":
            command.process.send_signal(number)
        elif whom == "group":
            os.killpg(command.process.pid, number)
        elif found := command.processes(whom):
            found[0].send_signal(number)
        else:
            raise Missed(f"no {whom}")
        row["exit_code"], row["said"], row["seconds"] = command.end(END_S)
        row["left"] = command.left_behind(LEFT_S)[0]
    except (Missed, subprocess.TimeoutExpired) as error:
        return row | {"said": str(error)}
    finally:
        command.kill()
    has_code = row["exit_code"] != 0 if code == NOT_0 else row["exit_code"] == code
    resumed = run(folder, "resume", "last", "resources.pool=local")
    row["is_same"] = resumed["state_fingerprint"] == expected
    return row | {"is_well": has_code and row["is_same"] and not row["left"]}


def main() -> int:
    """Cause the chosen faults; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", nargs="+", choices=NAMES, default=NAMES, help="these faults only")
    parser.add_argument("--json", type=Path, help="a file for the rows")
    args = parser.parse_args()
    # A shell's background processes ignore SIGINT, and so would the commands that they start.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    rows = []
    with tempfile.TemporaryDirectory() as name:
        whole = run(Path(name, "whole"), "run", "smoke", *SETTINGS, "resources.pool=local")
        for i, fault in enumerate(args.only):
            rows.append(outcome(fault, Path(name, str(i)), whole["state_fingerprint"]))
            print(json.dumps(rows[-1]), flush=True)
            if args.json:
                args.json.write_text(json.dumps(rows, indent=1) + "\n")
    return 0 if all(row["is_well"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
