"""What a finished experiment leaves for people and programs: a table, an object and a picture."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pipeline.diagnosis import Diagnosis
from pipeline.disk import room_for
from pipeline.evaluation import Evaluation
from pipeline.image_grids import image_grid
from pipeline.profiling import FOLDER, TABLE, trace_path
from pipeline.record_figures import client_rows
from pipeline.result import Result
from pipeline.run_files import save_result
from pipeline.runs import ui_command
from pipeline.setting_text import trained_text
from pipeline.summary import new_client_row, params_counts
from pipeline.text_table import aligned, change, number

GRID_CLIENTS, GRID_COLUMNS = 4, 16


def write_result(result: Result, preset: str | None) -> None:
    """Write a finished run's picture and object into its folder."""
    with room_for(result.run_dir):
        save_grid(result)
        save_result(result.run_dir, result_json(result, preset))


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
        f"each {trained_text(trained, total).removeprefix('a ')}\n"
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
