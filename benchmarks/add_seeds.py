"""Add the finished seeds of a sweep to the rows of its study.

    python -m benchmarks.add_seeds NAME [tracking.root=FOLDER]

A row is a scored client of a run. A seed is finished once every trial of NAME.yaml is; a seed that
NAME.parquet has already stays as it is. So stretches on several machines add up.
"""

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from pipeline.config.load import load_config
from pipeline.config.tracking import TrackingConfig
from pipeline.results.metric_names import (
    AUDITED_TABLE,
    DROPPED,
    NEW_CLIENTS_TABLE,
    ROUND_S,
    TUNED_TABLE,
    pretraining_table,
)
from pipeline.results.params import default_params
from sweeps.report.runs import (
    DOWN,
    SENT_MB,
    UNSET,
    UP,
    UP_KB,
    experiments,
    read_curves,
    read_runs,
    read_tables,
    settings_of,
    with_costs,
)

STUDIES = Path(__file__).parents[1] / "sweeps" / "studies"
KEYS = ["seed", "partition_hash", "method", "clients", "client_id"]
TEXT = ["method", "clients", "partition_hash", "git_revision"]
OF_RUN = {"tags.partition_hash": "partition_hash", "tags.git_revision": "git_revision"}
COSTS = {UP_KB: "comm.up_kb_per_client_round", SENT_MB: "comm.total_mb", ROUND_S: "time.round_s"}


def add_seeds(name: str, tracking: TrackingConfig, folder: Path = STUDIES) -> list[int]:
    """Add the finished seeds of the latest sweep of this name, and return them."""
    path = folder / f"{name}.parquet"
    old = pd.read_parquet(path) if path.exists() else pd.DataFrame(columns=KEYS)
    axes = yaml.safe_load((folder / f"{name}.yaml").read_text())["axes"]
    runs = experiments(read_runs(tracking, [name])[1])
    finished = runs.seed.value_counts()
    num_trials = math.prod(len(axis) for axis in axes.values())
    new = sorted({*finished.index[finished == num_trials]} - {*old.seed})
    if new:
        rows = client_rows(tracking, runs[runs.seed.isin(new)])
        rows = columns(rows, known=[*map(str, old)])
        write(rows if old.empty else pd.concat([old, rows], ignore_index=True), path)
    return new


def client_rows(tracking: TrackingConfig, runs: pd.DataFrame) -> pd.DataFrame:
    """Return a row for each scored client of these runs, with their settings and costs."""
    runs = with_costs(runs, read_curves(tracking, runs, (UP, DOWN, DROPPED, ROUND_S)))
    parts = []
    for num_rounds, own in runs.groupby("federation.num_rounds", sort=False):
        tables = {"pretraining": pretraining_table(int(str(num_rounds))), "tuned": TUNED_TABLE}
        tables["new"] = NEW_CLIENTS_TABLE
        for clients, path in tables.items():
            parts.append(read_tables(tracking, own, path).assign(clients=clients))
    rows = pd.concat(parts, ignore_index=True)
    audited = read_tables(tracking, runs, AUDITED_TABLE).drop(columns=["task", "method", "setting"])
    if not audited.empty:
        audited = audited.drop(columns="seed").assign(clients="new")
        rows = rows.merge(audited, how="left", on=["run_id", "client_id", "clients"])
    default, keys = default_params(), [key for key in settings_of(runs) if key in default_params()]
    told = [key for key in keys if (runs[key].fillna(UNSET) != default[key]).any()]
    of_run = runs[["run_id", *told, *OF_RUN, *COSTS]].rename(columns=OF_RUN | COSTS)
    of_run[told] = of_run[told].fillna(UNSET)
    return rows.drop(columns=["task", "setting"]).merge(of_run, on="run_id").drop(columns="run_id")


def columns(rows: Any, known: Sequence[str] = ()) -> Any:
    """Return rows with settings that vary as text, and scores as 32-bit floating-point numbers."""
    rows = rows.dropna(axis=1, how="all")
    settings = [key for key in rows if "." in key and key not in COSTS.values()]
    constant = [key for key in settings if key not in known and rows[key].nunique() == 1]
    rows = rows.drop(columns=constant)
    of = dict.fromkeys(rows, "float32") | dict.fromkeys(["seed", "client_id"], "int32")
    of |= dict.fromkeys([*TEXT, *settings], "str")
    return rows.astype({column: kind for column, kind in of.items() if column in rows})


def write(rows: pd.DataFrame, path: Path) -> None:
    rows.to_parquet(path, index=False, compression="zstd", compression_level=19)


if __name__ == "__main__":
    print("added seeds", add_seeds(sys.argv[1], load_config(None, sys.argv[2:]).tracking))
