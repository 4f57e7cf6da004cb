"""Runs out of the tracking store as DataFrames: their settings and scores, tables and curves."""

import io
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any  # Any for cells of frames: pandas has no types of its own

import numpy as np
import pandas as pd
from PIL import Image

from pipeline.config.data import DATASETS
from pipeline.config.meaning import reads
from pipeline.config.tracking import TrackingConfig
from pipeline.figures.style import method_place
from pipeline.results import metric_names as names
from pipeline.results.params import default_params
from pipeline.tracking.mlflow_queries import (
    artifact_bytes,
    histories,
    is_known,
    sweep_runs,
    table_rows,
)
from spire_core.config.method import find_method
from sweeps.primary import HELDOUT, TASK

if TYPE_CHECKING:
    from pipeline.tracking.mlflow_queries import Run

UNSET = "None"  # how a setting that is not given is logged
IGNORED = ("seed", "method.name", "resources.", "tracking.", "data.root", "data.path", "world.")
IGNORED += ("eval.extractor_weights", "eval.grid_images", "eval.controls")
EXTRACTOR, IMAGES = "extractor", "images"  # of a task, and logged as tags
KID_ROUNDS = "pretrain/kid/mean"
UP, DOWN = "comm/up_bytes", "comm/down_bytes"
SENT_MB, UP_KB = "comm/total_mb", "comm/up_kb_per_client_round"
DISTANCE = "final/adapt_style_distance_after"
SCORES = {  # by which a best setting is chosen: the first that any run of a task has
    DISTANCE: "distance of new clients to the true images",
    "final/adapt_kid_after": "KID of new clients",
    "final/pretrain_kid_mean": "KID of pre-training clients",
    HELDOUT: "held-out loss of new clients",
}
KEYS = ["task", "method", "setting"]
MAX_SAMPLES = 8


def read_runs(config: TrackingConfig, words: Iterable[str]) -> "tuple[Run | None, pd.DataFrame]":
    """Return a sweep's own run, if words name one, and the runs that they name, as `sweep_runs`."""
    parent, runs = sweep_runs(config, [*words])
    return parent, frame_of(runs)


def frame_of(runs: "Iterable[Run]") -> pd.DataFrame:
    """Return a row for each run.

    Settings and metrics are columns by their names, tags by theirs after `tags.`. The store has few
    of the settings that are at their default. `unknown`: metrics that are no finite numbers.
    """
    rows = [
        {"run_id": run.info.run_id, "name": run.info.run_name, "status": run.info.status}
        | {"began_ms": run.info.start_time, "ended_ms": run.info.end_time}
        | {"experiment_id": run.info.experiment_id}
        | {"method": run.data.params.get("method.name", run.data.tags.get("method"))}
        | {"unknown": [key for key, value in run.data.metrics.items() if not is_known(value)]}
        | {f"tags.{key}": value for key, value in run.data.tags.items()}
        | {**default_params(), **run.data.params}
        | {key: value for key, value in run.data.metrics.items() if is_known(value)}
        for run in runs
    ]
    return pd.DataFrame(rows, columns=None if rows else ["run_id", "status", "method"])


def experiments(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the finished experiments with their task, setting and seed, in that order.

    A task is given by those settings that make scores incomparable and vary over the runs; a
    setting by the others that vary within a method's runs of a task. Of an experiment that was
    run twice on the same seed the later run counts. A setting that a method does not read is NaN.
    """
    found = runs[(runs.status == "FINISHED") & runs.method.notna()]
    if found.empty:
        return found
    found = _with_tags(found.sort_values("began_ms"))
    for method, own in found.groupby("method"):
        if (record := find_method(str(method))) is not None:
            unread = [key for key in settings_of(found) if not reads(record, key)]
            found.loc[own.index, unread] = np.nan
    task = (*TASK, EXTRACTOR, IMAGES)
    of_task = [key for key in map(str, found) if key.startswith(task) and found[key].nunique() > 1]
    found["task"] = _labels(found, of_task)
    keys = varying(found)
    found["setting"] = _labels(found, keys)
    found["seed"] = found["seed"].astype(int)
    found["pair"] = found["seed"].astype(str) + " " + found["tags.partition_hash"].fillna("")
    found["place"] = found["method"].map(method_place)
    found = found.drop_duplicates([*KEYS, "seed"], keep="last")
    order = [*of_task, "place", "method", *keys, "seed"]
    return found.sort_values(order, key=sortable, na_position="first", ignore_index=True)


def settings_of(runs: pd.DataFrame) -> list[str]:
    """Return the names of the settings that may set runs apart."""
    return [key for key in map(str, runs) if "." in key and not key.startswith((*IGNORED, "tags."))]


def varying(runs: pd.DataFrame) -> list[str]:
    """Return the settings that vary within some method's runs of a task."""
    keys = settings_of(runs)
    most = runs.groupby(["task", "method"])[keys].nunique().max()
    return [key for key in keys if most[key] > 1]


def _with_tags(runs: pd.DataFrame) -> pd.DataFrame:
    """Return runs with the scores and settings that are logged as tags or follow from others."""

    def tag(name: str) -> pd.Series:
        return runs.get(f"tags.{name}", pd.Series(None, runs.index, dtype=object))

    sha256 = tag("extractor_hash").fillna("").str[:8]
    more: dict[str, Any] = {EXTRACTOR: (tag(EXTRACTOR) + " " + sha256).str.strip()}
    more[IMAGES] = tag("data_hash").str[:8].where(~runs["data.name"].isin(DATASETS))
    for key, name in {"model.backbone": "backbone_hash", "model.text_encoder": "text_hash"}.items():
        more[key] = tag(name).str[:8].fillna(UNSET)
    more["tags.partition_hash"] = tag("partition_hash")
    for name, key in (names.COPIES_TAGS | names.IMAGE_TAGS | names.FIT_TAGS).items():
        more[key] = pd.to_numeric(tag(name))
    more[names.NN_EXCESS] = more[names.NN_SHARE] - more[names.NN_CHANCE]
    return runs.assign(**more, **{key: np.nan for key in SCORES if key not in runs})


def _labels(runs: pd.DataFrame, keys: list[str]) -> pd.Series:
    """Return the values of some settings in words, such as `tau=3, adapt.lr=0.02`."""

    def label(row: Any) -> str:
        given = [(key, row[key]) for key in keys if pd.notna(row[key]) and row[key] != UNSET]
        return ", ".join(f"{short(key)}={value}" for key, value in given)

    return runs.apply(label, axis=1) if keys else pd.Series("", runs.index)


def short(key: str) -> str:
    """Return a setting's name as the report shows it."""
    return key.removeprefix("federation.")


def sortable(column: pd.Series) -> pd.Series:
    """Return a column as numbers if any of it is one, so that 8 comes before 16."""
    numbers = pd.to_numeric(column, errors="coerce")
    return numbers if numbers.notna().any() else column


def with_costs(runs: pd.DataFrame, curves: pd.DataFrame) -> pd.DataFrame:
    """Return runs with what they sent and their mean seconds a round, by their curves.

    A client that is in no average counts in no round.
    """
    at = curves.pivot_table("value", "run_id", "metric", aggfunc=["sum", "count", "mean"])

    def of(how: str, metric: str) -> pd.Series:
        return runs.run_id.map(at.get((how, metric), {}))

    cohort = runs["federation.cohort_size"].astype(float)
    messages = cohort * of("count", UP) - of("sum", names.DROPPED)
    return runs.assign(
        **{
            SENT_MB: (of("sum", UP) + of("sum", DOWN)) / 1e6,
            UP_KB: of("sum", UP) / messages / 1e3,
            names.ROUND_S: of("mean", names.ROUND_S),
        }
    )


def read_tables(config: TrackingConfig, runs: pd.DataFrame, path: str) -> pd.DataFrame:
    """Return the rows of a table that these runs have among their artifacts, with their keys."""
    keys = ["run_id", *KEYS, "seed"]
    rows = [
        {**dict(zip(keys, head, strict=True)), **row}
        for head in runs[keys].itertuples(index=False)
        for row in table_rows(config, head[0], path)
    ]
    return pd.DataFrame(rows, columns=None if rows else keys)


def read_curves(config: TrackingConfig, runs: pd.DataFrame, metrics: Iterable[str]) -> pd.DataFrame:
    """Return metrics of runs by step: a row for each run, metric and step."""
    keys, metrics = ["run_id", *KEYS, "seed"], [*metrics]
    rows = [
        (*head, metric, step, value)
        for head in runs[keys].itertuples(index=False)
        for metric, curve in histories(config, head[0], metrics).items()
        for step, value in curve
    ]
    curves = pd.DataFrame(rows, columns=[*keys, "metric", "step", "value"])
    return curves.astype({"step": int, "value": float})


def read_samples(
    config: TrackingConfig, runs: pd.DataFrame, clients: pd.DataFrame
) -> dict[str, bytes]:
    """Return PNG pictures by title: a new client's images, its own and drawn before and after.

    They are the left half of the picture `samples/client_ID.png` of each group's first run.
    """
    found: dict[str, bytes] = {}
    for keys, own in runs.groupby(KEYS, sort=False):
        first = own.iloc[0]
        ids = clients[clients.run_id == first.run_id]
        path = "" if ids.empty else f"samples/client_{ids.client_id.min()}.png"
        data = artifact_bytes(config, first.run_id, path) if path else None
        if data is not None and len(found) < MAX_SAMPLES:
            picture, small = Image.open(io.BytesIO(data)), io.BytesIO()
            picture.crop((0, 0, picture.width // 2, picture.height)).save(small, "PNG")
            task, method, setting = keys
            title = ", ".join(filter(None, (str(task), f"{method} {setting}".strip())))
            found[title] = small.getvalue()
    return found
