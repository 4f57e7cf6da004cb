"""What the command line says about an experiment, before it runs and at its end: text and JSON."""

import json
import math
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from pipeline.arrival import Arrival
from pipeline.diagnosis import Diagnosis
from pipeline.evaluation import Evaluation
from pipeline.image_grids import image_grid
from pipeline.profiling import FOLDER, TABLE, trace_path
from pipeline.ray_job import lasting
from pipeline.record_figures import client_rows
from pipeline.resources import ActorPlan
from pipeline.result import Result
from pipeline.runs import ui_command
from pipeline.setting import Setting
from pipeline.summary import new_client_row, params_counts
from spire_core.adapt import AdaptPoint
from spire_core.errors import ConfigError
from spire_core.partition import Partition

MAX_COLUMNS = 12  # classes; with more of them a client's largest are named
MAX_ROWS = 40  # clients of one kind
GRID_CLIENTS, GRID_COLUMNS = 4, 16


def number(value: float | None) -> str:
    """Return a number in three digits, or "-" for what is not known."""
    if value is None or not math.isfinite(value):
        return "-"
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def change(before: float | None, after: float | None) -> str:
    """Return two numbers with an arrow between them."""
    return f"{number(before)} -> {number(after)}"


def aligned(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table with right-aligned columns."""
    lines = [list(header), *(list(row) for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


# --- before a run -------------------------------------------------------------------------------


def partition_json(
    partition: Partition, labels: np.ndarray, class_names: Sequence[str]
) -> dict[str, Any]:
    """Return who holds which data, client by client; of a population without end, the first."""
    shown = partition.shown
    counts = shown.class_counts(labels, len(class_names))
    num_old, num_clients = len(shown.train_clients), len(partition.train_clients)
    clients = [
        {
            "client_id": split.client_id,
            "is_new": i >= num_old,
            "num_train": len(split.train),
            "num_test": len(split.test),
            "class_counts": counts[i].tolist(),
        }
        for i, split in enumerate((*shown.train_clients, *shown.new_clients))
    ]
    return {
        "hash": partition.hash,
        "class_names": list(class_names),
        "clients": clients,
        "num_left_out": num_clients + len(partition.new_clients) - len(clients),
    }


def partition_text(told: dict[str, Any]) -> str:
    """Return what `partition_json` tells, as a table of images per client and class."""
    names, clients = told["class_names"], told["clients"]
    is_wide = len(names) > MAX_COLUMNS
    header = [
        "client",
        "train",
        "test",
        *(["largest classes"] if is_wide else [n[:6] for n in names]),
    ]
    shown, left_out = [], told["num_left_out"]
    for is_new in (False, True):
        of_kind = [c for c in clients if c["is_new"] == is_new]
        shown += of_kind[:MAX_ROWS]
        left_out += len(of_kind[MAX_ROWS:])
    table = aligned(header, [_partition_row(c, names, is_wide) for c in shown])
    more = f"\n(and {left_out} more clients)" if left_out else ""
    return f"{table}{more}\npartition {told['hash']}"


def _partition_row(client: dict[str, Any], names: Sequence[str], is_wide: bool) -> list[str]:
    name = f"new {client['client_id']}" if client["is_new"] else str(client["client_id"])
    counts = client["class_counts"]
    cells = [str(n) if n else "." for n in counts]
    if is_wide:
        largest = sorted(range(len(counts)), key=lambda k: -counts[k])[:4]
        cells = [" ".join(f"{names[k][:10]}:{counts[k]}" for k in largest if counts[k])]
    return [name, str(client["num_train"]), str(client["num_test"]), *cells]


def setting_json(setting: Setting, preset: str, plan: ActorPlan | None) -> dict[str, Any]:
    """Return what is fixed before the first round; `plan` is None where one process does all."""
    total, trained = params_counts(setting)
    data, config = setting.data, setting.config
    actors = None
    if plan is not None:
        actors = {
            "num_actors": plan.num_actors,
            "num_cpus": plan.num_cpus,
            "num_gpus": plan.num_gpus,
        }
    return {
        "preset": preset,
        "config": json.loads(json.dumps(config.as_dict())),  # lists for tuples, as YAML wants them
        "config_fingerprint": config.fingerprint,
        "partition": partition_json(setting.partition, data.labels, data.class_names),
        "extractor": setting.extractor,
        "params_total": total,
        "params_trainable_new_client": trained,
        "params_trainable_fraction": trained / total,
        "resources": {"pool": config.resources.pool, "actors": actors},
    }


def setting_text(told: dict[str, Any], plan: ActorPlan | None) -> str:
    """Return what `setting_json` tells, for reading."""
    total, trained = told["params_total"], told["params_trainable_new_client"]
    where = f"resources: {plan.describe()}" if plan else "resources: this process alone"
    return "\n\n".join(
        [
            yaml.safe_dump(
                told["config"], sort_keys=False, default_flow_style=None, width=100
            ).strip(),
            "images of each class at each client:\n" + partition_text(told["partition"]),
            f"parameters: {_trained(trained, total)}\n"
            f"extractor: {told['extractor']}\n{where}\nconfig {told['config_fingerprint']}",
        ]
    )


def _trained(trained: int, total: int) -> str:
    return f"a new client trains {trained:,} of {total:,} numbers ({100 * trained / total:.3g} %)"


# --- at the end of a run ------------------------------------------------------------------------


def writable_png(path: str | Path) -> Path:
    """Return where to write a PNG, its folder made; ConfigError if it cannot be written."""
    png = Path(path)
    try:
        png = lasting(path, "--out").with_suffix(".png")
        png.parent.mkdir(parents=True, exist_ok=True)
        problem = None if os.access(png.parent, os.W_OK) else "its folder is read-only"
    except ConfigError:
        raise
    except (OSError, RuntimeError, ValueError) as error:  # also of a home, no name, or a NUL in it
        problem = str(error)
    if problem or png.is_dir():
        problem = problem or "it is a folder"
        raise ConfigError(
            f"expected a file that can be written, got {png} ({problem}): name another"
        )
    return png


def grid_path(result: Result) -> Path:
    """Return where `save_grid` writes."""
    return result.run_dir / "samples.png"


def save_grid(result: Result) -> Path:
    """Write rows of images as a PNG and return it.

    For each new client: its own, drawn before, and drawn after adaptation. Without new
    clients: drawn as the first pre-training clients.
    """
    rows = [
        images
        for report in result.reports[:GRID_CLIENTS]
        for _, images in client_rows(result, report.client_id)
    ]
    if not rows and result.evaluations:
        rows = [drawn.images for drawn in result.evaluations[-1].drawn[:GRID_CLIENTS]]
    width = min(GRID_COLUMNS, min(len(images) for images in rows))
    stacked = np.concatenate([image_grid(images[:width], width) for images in rows])
    Image.fromarray(stacked).save(grid_path(result))
    return grid_path(result)


def result_json(result: Result, preset: str | None) -> dict[str, Any]:
    """Return a finished experiment as plain values; a number that is not finite becomes None."""
    config = result.setting.config
    total, trained = params_counts(result.setting)
    trace = trace_path(result.run_dir)
    return {
        "run_id": result.run_id,
        "method": config.method.name,
        "preset": preset,
        "seed": config.seed,
        "metrics": finite(result.metrics),
        "diagnoses": [diagnosis.as_dict() for diagnosis in result.diagnoses],
        "params_total": total,
        "params_trainable_new_client": trained,
        "config_fingerprint": config.fingerprint,
        "state_fingerprint": result.state_fingerprint,
        "partition_hash": result.setting.partition.hash,
        "artifacts": {
            "run_dir": str(result.run_dir),
            "model": str(result.run_dir / "model"),
            "samples": str(grid_path(result)),
            **({"profile": str(trace)} if trace else {}),
        },
        "ui_command": ui_command(config.tracking) if config.tracking.enabled else None,
    }


def finite(values: dict[str, float]) -> dict[str, float | None]:
    """Return numbers as JSON can hold them: None for NaN and infinity."""
    return {key: v if math.isfinite(v) else None for key, v in values.items()}


def result_table(result: Result) -> str:
    """Return what is printed at the end of a run: scores, floors, and where everything lies."""
    config, federation = result.setting.config, result.setting.config.federation
    title = (
        f"{config.method.name} on {config.data.name}, seed {config.seed}: "
        f"{federation.num_clients} clients, {federation.num_rounds} rounds"
    )
    tables = [_pretraining_table(result), _new_clients_table(result)]
    parts = [title, *tables, diagnoses_text(result.diagnoses), _where(result)]
    return "\n\n".join(part for part in parts if part)


def diagnoses_text(diagnoses: Sequence[Diagnosis]) -> str:
    """Return recognised failures with what to try, or that there are none."""
    if not diagnoses:
        return "no known failure recognised"
    said = [f"{d.name}: {d.evidence}\n  try {d.advice}" for d in diagnoses]
    return "\n".join(["Diagnoses (docs/diagnoses.md)", *said])


def _pretraining_table(result: Result) -> str:
    if not result.evaluations:
        return "no pre-training: this method's clients train alone"
    floor = result.real.floor_mean(result.setting.eval_ids)
    header = ["round", "KID", "worst", "TV", "held-out own", "zero", "swapped"]
    rows = [_pretraining_row(evaluation) for evaluation in result.evaluations]
    first = f"Pre-training clients (KID floor, real against real: {number(floor)})"
    return f"{first}\n{aligned(header, rows)}"


def _pretraining_row(evaluation: Evaluation) -> list[str]:
    found = evaluation.metrics()
    keys = ("kid/mean", "kid/worst", "tv/mean", "heldout/own", "heldout/zero", "heldout/swapped")
    return [str(evaluation.round_idx), *(number(found.get(f"pretrain/{key}")) for key in keys)]


def _new_clients_table(result: Result) -> str:
    if not result.reports:
        return ""
    rows = [new_client_row(result, i) for i in range(len(result.reports))]
    header = ["client", "KID", "floor", "kept epoch", "TV", "held-out loss", "NN train", "NN test"]
    cells = [
        [
            str(row["client_id"]),
            change(row["kid_before"], row["kid_after"]),
            number(row["kid_floor"]),
            str(row["kept_epoch"]),
            change(row["tv_before"], row["tv_after"]),
            change(row["heldout_before"], row["heldout_after"]),
            number(row["nn_train"]),
            number(row["nn_test"]),
        ]
        for row in rows
    ]
    total, trained = params_counts(result.setting)
    forgetting = ", ".join(
        f"{name} {_mean([row[f'forgetting_{name}'] for row in rows])}"
        for name in ("own", "global", "replaced")
    )
    return (
        "New clients, before -> after adaptation "
        "(NN: distance of samples to the client's nearest image)\n"
        f"{aligned(header, cells)}\n"
        f"each {_trained(trained, total).removeprefix('a ')}\n"
        f"forgetting at the end (KID): {forgetting}"
    )


def _mean(values: Sequence[float | None]) -> str:
    known = [v for v in values if v is not None]
    return number(sum(known) / len(known)) if known else "-"


def _where(result: Result) -> str:
    tracking = result.setting.config.tracking
    lines = [f"run folder  {result.run_dir}", f"samples     {grid_path(result)}"]
    if tracking.enabled:
        lines.append(f"compare     {ui_command(tracking)}")
    if (trace := trace_path(result.run_dir)) is not None:
        table = result.run_dir / FOLDER / TABLE
        how = "open it at https://ui.perfetto.dev or in chrome://tracing"
        lines.append(f"profile     {trace}: {how}; the operators that took longest are in {table}")
    return "\n".join(lines)


# --- a client that arrived later ----------------------------------------------------------------


def arrival_json(arrival: Arrival) -> dict[str, Any]:
    """Return what an arrived client's adaptation found, as plain values."""
    curve = [
        {
            "epoch": point.epoch,
            "train_loss": point.train_loss,
            "val_loss": point.val_loss,
            **finite(point.observed or {}),
        }
        for point in arrival.curve
    ]
    return {
        "client_id": arrival.client_id,
        "num_train": arrival.num_train,
        "num_test": arrival.num_test,
        "num_trained": arrival.num_trained,
        "kept_epoch": arrival.kept_epoch,
        "curve": curve,
        "diagnoses": [] if arrival.diagnosis is None else [arrival.diagnosis.as_dict()],
        "artifacts": {"client": str(arrival.path), "samples": str(arrival.grid_path)},
    }


def arrival_table(arrival: Arrival) -> str:
    """Return an arrived client's curve over epochs and where its part lies."""
    header = ["epoch", "train loss", "held-out loss", "KID", "TV"]
    rows = [_arrival_row(point) for point in arrival.curve if point.observed is not None]
    return (
        f"client {arrival.client_id}: {arrival.num_trained:,} numbers trained on "
        f"{arrival.num_train} images, measured on {arrival.num_test} others\n"
        f"{aligned(header, rows)}\n"
        f"kept epoch {arrival.kept_epoch}\n\n"
        f"{diagnoses_text([arrival.diagnosis] if arrival.diagnosis else [])}\n\n"
        f"own part  {arrival.path}\nsamples   {arrival.grid_path}"
    )


def _arrival_row(point: AdaptPoint) -> list[str]:
    observed = point.observed or {}
    keys = ("heldout_loss", "own_kid", "tv")
    return [
        str(point.epoch),
        number(point.train_loss),
        *(number(observed.get(key)) for key in keys),
    ]
