"""A run's folder: the lock of the process that works on the run, and the run's result."""

import contextlib
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.config.schema import Config
from pipeline.files.atomic import POLL_S, sign, try_lock
from pipeline.files.damage import read_object, reading
from pipeline.files.json_files import write_json
from pipeline.files.masking import mask
from pipeline.runs.layout import LOCK, RESULT
from pipeline.runs.record import read_record
from spire_core.errors import BusyError


@contextlib.contextmanager
def run_lock(run_dir: Path, wait_s: float = 0.0) -> Iterator[None]:
    """Lock a run until the end of a block; the lock also ends with the process.

    BusyError if, after `wait_s` still, another process or another block of this one has locked it.
    """
    with (run_dir / LOCK).open("a+") as file:
        deadline = time.monotonic() + wait_s
        while not try_lock(file):
            if time.monotonic() >= deadline:
                file.seek(0)
                raise BusyError(
                    f"expected nobody at work on the run in {run_dir}, got {file.read().strip()}: "
                    "wait until it ends, or end it"
                )
            time.sleep(POLL_S)
        sign(file)
        yield


def storable(config: Config) -> dict[str, Any]:
    """Return a configuration without secrets: no `tracking.uri`, and `tracking.storage` masked."""
    storage = config.tracking.storage
    shown = None if storage is None else mask(storage)
    return replace(config, tracking=replace(config.tracking, uri=None, storage=shown)).as_dict()


def save_result(run_dir: Path, result: Mapping[str, Any]) -> None:
    """Write the object that a finished run prints."""
    write_json(run_dir / RESULT, result)


def load_result(run_dir: Path) -> dict[str, Any] | None:
    """Return the object that a finished run printed, or None if it has not finished."""
    path = run_dir / RESULT
    if not path.is_file():
        return None
    with reading("what a run found", path, "delete this file and resume the run"):
        result = read_object(path)
        if not is_result(result):
            raise TypeError(f"{result!r:.50} for a result")
        result |= {"run_id": read_record(run_dir)["run_id"]}
        json.dumps(result, allow_nan=False)  # raises for what `--json` could not print
        return result


def is_result(value: Any) -> bool:
    """Return whether a value has the parts of a run's result that are read again."""
    if not isinstance(value, dict):
        return False
    metrics, artifacts = value.get("metrics"), value.get("artifacts", {})
    return (
        isinstance(metrics, dict)
        and all(isinstance(number, float | int | None) for number in metrics.values())
        and isinstance(artifacts, dict)
        and isinstance(value.get("state_fingerprint"), str | None)
    )
