"""The files of a finished run: the JSON object that it prints, and a grid of images."""

from typing import Any

from PIL import Image

from pipeline.config.meaning import fingerprint
from pipeline.config.tracking import ui_command
from pipeline.files.atomic import sync_tree, write_json
from pipeline.results.metrics import params_counts
from pipeline.results.pictures import samples_grid
from pipeline.results.result import Result
from pipeline.runs.layout import GRID, MODEL, RESULT, trace_path
from pipeline.tracking.outbox import sync_outbox
from pipeline.tracking.tracker import finite_values


def write_result(result: Result, preset: str | None) -> None:
    """Write a finished run's grid of images and JSON object into its folder.

    What the object vouches for, the model and all numbers, reaches the disk before it.
    """
    Image.fromarray(samples_grid(result)).save(result.run_dir / GRID)
    sync_tree(result.run_dir / MODEL)
    sync_outbox(result.run_dir)
    write_json(result.run_dir / RESULT, result_json(result, preset))


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
        "metrics": finite_values(result.metrics),
        "diagnoses": [diagnosis.as_dict() for diagnosis in result.diagnoses],
        "params_total": total,
        "params_trainable_new_client": trained,
        "config_fingerprint": fingerprint(config),
        "state_fingerprint": result.state_fingerprint,
        "partition_hash": result.setting.partition.hash,
        "artifacts": {
            "run_dir": str(result.run_dir),
            "model": str(result.run_dir / MODEL),
            "samples": str(result.run_dir / GRID),
            **({"profile": str(trace)} if trace else {}),
        },
        "ui_command": ui_command(config.tracking) if config.tracking.enabled else None,
    }
