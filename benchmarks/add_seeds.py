"""Add the finished seeds of a sweep to the rows of its study.

    python -m benchmarks.add_seeds NAME [tracking.root=FOLDER]

A row is a scored client of a run. A seed is finished once every trial of NAME.yaml is; a seed that
NAME.parquet has already stays as it is. So stretches on several machines add up.
"""

import math
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from pipeline.config.load import load_config
from pipeline.config.tracking import TrackingConfig
from pipeline.tracking.mlflow_queries import sweep_runs
from sweeps.report.finals import with_finals
from sweeps.report.groups import seed_of, whole
from sweeps.report.rows import COSTS, client_rows

STUDIES = Path(__file__).parents[1] / "sweeps" / "studies"
KEYS = ["seed", "partition_hash", "method", "clients", "client_id"]
TEXT = ["method", "clients", "partition_hash", "git_revision"]
DROPPED = ["run_id", "started", "config_fingerprint", "state_fingerprint", "data_hash", "dp"]
DROPPED += ["extractor", "extractor_hash", "world.hull_tv", "world.nearest_tv"]


def add_seeds(name: str, tracking: TrackingConfig, folder: Path = STUDIES) -> list[int]:
    """Add the finished seeds of the latest sweep of this name, and return them."""
    path = folder / f"{name}.parquet"
    old = pd.read_parquet(path) if path.exists() else pd.DataFrame(columns=KEYS)
    axes = yaml.safe_load((folder / f"{name}.yaml").read_text())["axes"]
    _, runs = sweep_runs(tracking, [name])
    runs = [whole(run) for run in runs if run.status == "FINISHED"]
    finished = Counter(seed_of(run) for run in runs)
    num_trials = math.prod(len(axis) for axis in axes.values())
    new = sorted({seed for seed, n in finished.items() if n == num_trials} - {*old.seed})
    if new:
        added = [with_finals(tracking, run) for run in runs if seed_of(run) in new]
        rows = columns(pd.DataFrame(client_rows(tracking, added)), known=[*map(str, old)])
        write(rows if old.empty else pd.concat([old, rows], ignore_index=True), path)
    return new


def columns(rows: Any, known: Sequence[str] = ()) -> Any:
    """Return rows with settings that vary as text, and scores as 32-bit floating-point numbers."""
    rows = rows.drop(columns=DROPPED, errors="ignore").dropna(axis=1, how="all")
    settings = [column for column in rows if "." in column and column not in COSTS]
    constant = [key for key in settings if key not in known and rows[key].nunique() == 1]
    rows = rows.drop(columns=constant)
    of = dict.fromkeys(rows, "float32") | dict.fromkeys(["seed", "client_id"], "int32")
    of |= dict.fromkeys([*TEXT, *settings], "str")
    return rows.astype({column: kind for column, kind in of.items() if column in rows})


def write(rows: pd.DataFrame, path: Path) -> None:
    rows.to_parquet(path, index=False, compression="zstd", compression_level=19)


if __name__ == "__main__":
    print("added seeds", add_seeds(sys.argv[1], load_config(None, sys.argv[2:]).tracking))
