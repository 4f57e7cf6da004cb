"""The files of a finished run: the JSON object that it prints, and a grid of images."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pipeline.config.meaning import fingerprint
from pipeline.config.tracking import ui_command
from pipeline.figures.image_grids import image_grid
from pipeline.files.atomic import room_for, sync_tree
from pipeline.results.metrics import params_counts
from pipeline.results.prompt_sheet import prompt_sheet
from pipeline.results.recorded_figures import client_rows
from pipeline.results.result import Result
from pipeline.runs.layout import GRID, MODEL, trace_path
from pipeline.runs.record import save_result
from pipeline.tracking.outbox import sync_outbox

GRID_CLIENTS, GRID_COLUMNS, SHEET_CLIENTS = 4, 16, 8


def write_result(result: Result, preset: str | None) -> None:
    """Write a finished run's grid of images and JSON object into its folder.

    What the object vouches for, the model and all numbers, reaches the disk before it.
    """
    with room_for(result.run_dir):
        save_grid(result)
        sync_tree(result.run_dir / MODEL)
        sync_outbox(result.run_dir)
        save_result(result.run_dir, result_json(result, preset))


def grid_path(result: Result) -> Path:
    """Return the path of the grid of images."""
    return result.run_dir / GRID


def save_grid(result: Result) -> Path:
    """Write rows of images as a PNG and return its path.

    Three rows per new client: its own images, samples before and after adaptation. Without new
    clients, one row of samples per pre-training client. With text, `prompt_sheet`.
    """
    reports = result.adaptation.reports
    if result.setting.tokens is not None and reports:
        picture = prompt_sheet(result.setting, reports[:SHEET_CLIENTS])
    else:
        picture = _rows(result)
    Image.fromarray(picture).save(grid_path(result))
    return grid_path(result)


def _rows(result: Result) -> np.ndarray:
    rows = [
        images
        for report in result.adaptation.reports[:GRID_CLIENTS]
        for _, images in client_rows(result.setting, report)
    ]
    evaluations = result.pretraining.evaluations
    if not rows and evaluations:
        rows = [drawn.images for drawn in evaluations[-1].drawn[:GRID_CLIENTS]]
    width = min(GRID_COLUMNS, min(len(images) for images in rows))
    return np.concatenate([image_grid(images[:width], width) for images in rows])


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
        "config_fingerprint": fingerprint(config),
        "state_fingerprint": result.state_fingerprint,
        "partition_hash": result.setting.partition.hash,
        "artifacts": {
            "run_dir": str(result.run_dir),
            "model": str(result.run_dir / MODEL),
            "samples": str(grid_path(result)),
            **({"profile": str(trace)} if trace else {}),
        },
        "ui_command": ui_command(config.tracking) if config.tracking.enabled else None,
    }


def finite(values: Mapping[str, float]) -> dict[str, float | None]:
    """Return numbers as JSON can hold them: None for NaN and infinity."""
    return {key: v if math.isfinite(v) else None for key, v in values.items()}
