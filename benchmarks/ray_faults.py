"""Ray's processes are killed or stand still, and signals come, at every stage of a small run.

    nice python benchmarks/ray_faults.py --out ray-faults.json
    nice python benchmarks/ray_faults.py --only "raylet SIGKILL round" --out FILE [--again]

One run after the other, with real MNIST, MLflow, Ray with one client actor, and the limits of time
that users have. Of each fault: the exit code, the sentence, the seconds until the command ended and
until its last process was gone, what still ran 60 s later, and the status in MLflow. The file is
written after each run, and rows that it has are counted; with `--again`, those of the chosen faults
are dropped first. A run that ends before the fault, as Ray does if it cannot start in 30 s on a
busy machine, is tried again. Exit code 0 only if every fault was answered with the expected exit
code, one sentence and no traceback, and left nothing behind.
"""

import argparse
import contextlib
import json
import os
import platform
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from ray_desk import Command, Missed
from ray_fault_cases import CASES, Case, strike, wait_for_moment
from ray_fault_limits import Group, Unavailable, surroundings

from pipeline.config.load import load_config
from pipeline.config.tracking import TrackingConfig
from pipeline.data.datasets import store_root
from pipeline.files.paths import git_revision
from pipeline.tracking.tracker import check_store

END_S, LEFT_S = 300.0, 60.0  # of the command, and of its processes after it
MAX_TRIES = 3
KEPT_LINES = 30  # of what was said, of a fault that was answered badly
STATUS_OF = {0: "FINISHED", 2: "FAILED", 130: "KILLED", -9: "RUNNING"}  # by exit code; of a run


def status_of(folder: Path) -> str | None:
    """Return the status of the only run in a folder's database, None if there is no run yet."""
    with closing(sqlite3.connect(folder / "mlflow.db")) as database:
        found = database.execute("SELECT status FROM runs").fetchall()
    return found[0][0] if found else None


def answered(case: Case, row: dict[str, Any]) -> bool:
    """Return whether a fault was answered as it should be."""
    says_one_sentence = row["num_sentences"] == (1 if case.code > 0 else 0)
    has_status = row["status"] in (None, STATUS_OF[case.code])
    has_code = row["exit_code"] == case.code
    said_well = says_one_sentence and case.told in row["sentence"] and not row["has_traceback"]
    return has_code and said_well and has_status and not row["left_after_60_s"]


def cause(case: Case, folder: Path) -> dict[str, Any]:
    """Begin a run, cause the fault, and return what became of it."""
    with contextlib.ExitStack() as stack:
        env = stack.enter_context(surroundings(case.limits, folder))
        group = stack.enter_context(closing(Group())) if case.limits == "memory" else None
        command = Command(folder, store_root(), "run", "smoke", *case.settings, **env)
        stack.callback(command.kill)
        if group is not None:
            group.take(command.process.pid)
        wait_for_moment(command, case.moment)
        num_rounds, began = command.num_rounds, time.monotonic()
        if group is not None:
            group.fill()
        strike(command, case)
        ended = _end_of(command, began)
        command.kill()
    return {"rounds_before": num_rounds, **ended, "status": status_of(folder)}


def _end_of(command: Command, began: float) -> dict[str, Any]:
    """Wait for a command's end, and for that of its processes; return what it said."""
    try:
        code, _, _ = command.end(END_S)
    except subprocess.TimeoutExpired:
        code = None
    seconds = time.monotonic() - began
    left, gone_s = command.left_behind(LEFT_S if code is not None else 0.0)
    text, sentences = command.err.read_text(), command.sentences
    return {
        "exit_code": code,
        "sentence": (sentences or [""])[-1].replace(str(command.folder), "FOLDER"),
        "num_sentences": len(sentences),
        "has_traceback": "Traceback (most recent call last)" in text,
        "seconds": round(seconds, 1),
        "seconds_until_none_is_left": round(gone_s, 1) if not left else None,
        "left_after_60_s": [line[:200] for line in left],
        "said": text.splitlines(),
    }


def measure(case: Case, repeat: int, database: Path, folder: Path) -> dict[str, Any]:
    """Cause a fault once in a new folder; return the row of the table."""
    folder.mkdir()
    shutil.copy(database, folder / "mlflow.db")
    about = {"fault": case.name, "repeat": repeat, "expected_code": case.code}
    about |= {"commit": git_revision()}
    try:
        row = cause(case, folder)
    except (Missed, Unavailable) as missed:
        said = str(missed).splitlines()[-KEPT_LINES:]
        return {**about, "is_answered": False, "missed": True, "said": said}
    said = row.pop("said")
    row["num_lines_said"] = len(said)
    is_answered = answered(case, row)
    if not is_answered:
        row["said"] = [line[:300] for line in said[-KEPT_LINES:]]
    return {**about, "is_answered": is_answered, **row, "load": round(os.getloadavg()[0], 1)}


def missing(names: Sequence[str] | None, rows: Sequence[dict[str, Any]]) -> list[tuple[Case, int]]:
    """Return the faults still to be caused, each with the number of its repeat."""
    cases = [case for case in CASES if names is None or case.name in names]
    done = {(row["fault"], row["repeat"]) for row in rows}
    plan = [(case, i) for i in range(max(c.times for c in cases)) for case in cases]
    return [(c, i) for c, i in plan if i < c.times and (c.name, i) not in done]


def write(out: Path, rows: Sequence[dict[str, Any]]) -> None:
    order = [case.name for case in CASES]
    rows = sorted(rows, key=lambda row: (order.index(row["fault"]), row["repeat"]))
    faults = {row["fault"] for row in rows}
    bad = {row["fault"] for row in rows if not row["is_answered"]}
    about = {
        "command": "benchmarks/ray_faults.py",
        "system": platform.platform(),
        "cores": os.cpu_count(),
        "num_faults": len(faults),
        "num_faults_answered": len(faults - bad),
        "num_runs": len(rows),
        "num_runs_answered": sum(row["is_answered"] for row in rows),
    }
    out.write_text(json.dumps(about | {"runs": rows}, indent=1) + "\n")


def main() -> int:
    """Cause the chosen faults; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="a JSON file of the results")
    text = "these faults only"
    parser.add_argument("--only", nargs="+", choices=[c.name for c in CASES], help=text)
    parser.add_argument("--again", action="store_true", help="drop their earlier rows")
    args = parser.parse_args()
    # A shell's background processes ignore SIGINT, and so would the commands that they start.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    rows = json.loads(args.out.read_text())["runs"] if args.out.exists() else []
    if args.again:
        rows = [row for row in rows if args.only and row["fault"] not in args.only]
    plan, num_kept = missing(args.only, rows), len(rows)
    for case, _ in plan:
        load_config("smoke", case.settings)  # before any run takes its time
    with tempfile.TemporaryDirectory() as name:
        database = Path(name) / "new.db"
        check_store(TrackingConfig(uri=f"sqlite:///{database}"))
        for i, (case, repeat) in enumerate(plan):
            row: dict[str, Any] = {}
            for attempt in range(MAX_TRIES):
                row = measure(case, repeat, database, Path(name) / f"{i:03d}-{attempt}")
                if not row.get("missed"):
                    break
            rows.append(row)
            write(args.out, rows)
            shown = {k: v for k, v in rows[-1].items() if k not in ("said", "commit")}
            print(json.dumps(shown), flush=True)
    return 0 if all(row["is_answered"] for row in rows[num_kept:]) else 1


if __name__ == "__main__":
    sys.exit(main())
