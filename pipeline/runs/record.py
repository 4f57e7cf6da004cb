"""The records of runs, by which they are found on this machine.

The record of a run is `tracking.json` in its folder `<root>/runs/<run id>/`: id, name, kind, start
and the address of its tracking store.
"""

import errno
import logging
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pipeline.config.tracking import TrackingConfig, tracking_root
from pipeline.files.damage import read_object, reading
from pipeline.files.json_files import write_json
from pipeline.files.masking import mask
from pipeline.files.paths import expanded
from pipeline.files.run_format import FORMAT, FORMAT_KEY
from pipeline.runs.layout import RECORD, RESULT
from spire_core.errors import ConfigError, FormatError, RunError

RECORD_TYPES = {"run_id": str, "run_name": str, "started_ms": int}
RECORD_TYPES |= {"kind": str, "tracked": bool, "uri": str}
Kind = Literal["run", "sweep", "theory"]
_log = logging.getLogger(__name__)


def read_record(run_dir: Path) -> dict[str, Any]:
    """Return the record of a run, as `make_run_dir` wrote it; RunError if it is damaged.

    FormatError if the run is of a newer format.
    """
    path = run_dir / RECORD
    with reading("a run's record", path, "put back a copy of it, or start a new run"):
        record = read_object(path)
        for key, kind in RECORD_TYPES.items():
            if not isinstance(record[key], kind):
                raise TypeError(f"{record[key]!r:.50} as {key}")
        _start(record)
        return record


def _start(record: Mapping[str, Any]) -> datetime:
    """Return when a run began; one of DAMAGE for a time in no calendar."""
    return datetime.fromtimestamp(record["started_ms"] / 1000, UTC)


def experiment_of(run_dir: Path | None) -> str | None:
    """Return the id of a run's experiment in its store, or None if its record has none."""
    if run_dir is None or not (run_dir / RECORD).is_file():
        return None
    experiment_id = read_record(run_dir).get("experiment_id")
    is_id = isinstance(experiment_id, str) and experiment_id.isdecimal()
    return experiment_id if is_id else None


def _records(runs: Path) -> list[dict[str, Any]]:
    """Return the records of all runs of a folder, oldest first.

    A folder whose name begins with a dot is no run, but one that is still being brought here.
    """
    records = []
    for path in runs.glob(f"[!.]*/{RECORD}"):
        try:
            records.append(read_record(path.parent) | {"folder": path.parent})
        except (RunError, FormatError) as error:  # one damaged record must not hide the others
            _log.warning("a run is passed over: %s", error)
    return sorted(records, key=lambda record: record["started_ms"])


def _ended(records: list[dict[str, Any]], is_finished: bool) -> list[dict[str, Any]]:
    """Return those of the records whose run has a result, or all if none has or none needs one."""
    ended = [record for record in records if (record["folder"] / RESULT).is_file()]
    return ended if is_finished and ended else records


def run_folders(config: TrackingConfig) -> list[Path]:
    """Return the folders of all runs and sweeps under the root, oldest first."""
    return [record["folder"] for record in _records(tracking_root(config) / "runs")]


def find_run(
    run: str, config: TrackingConfig, kinds: Sequence[Kind] = ("run",), is_finished: bool = False
) -> Path:
    """Return the folder of the run that a word names.

    The word is `last` (the newest run), a run's name, an id or the beginning of one, or the path of
    a run's folder. A name counts before an id, and both before a path. With `is_finished`, runs
    that have not ended are passed over where others fit as well. RunError if the word names no run,
    or several.
    """
    runs = tracking_root(config) / "runs"
    if run and _is_run(runs / run):
        read_record(runs / run)  # raises if this very record is damaged
    records = [r for r in _records(runs) if r["kind"] in kinds]
    if run == "last" and records:
        return _ended(records, is_finished)[-1]["folder"]
    fits = _ended([r for r in records if r["run_name"] == run], is_finished)
    fits = fits or [
        r
        for r in records
        if run and (r["folder"].name.startswith(run) or r["run_id"].startswith(run))
    ]
    if len(fits) == 1:
        return fits[0]["folder"]
    folder = expanded(run, "the run")
    if not fits and _is_run(folder):
        return folder.resolve()
    what = f"which fits {len(fits)} of them" if fits else f"which is none of those in {runs}"
    known = ", ".join(_told(record) for record in (fits or records)[-8:])
    raise RunError(
        f"expected a run's id, name or folder, or last, got {run!r:.200}, {what}: "
        f"choose from {known or 'a folder that holds runs, with tracking.root=FOLDER'}"
    )


def _is_run(folder: Path) -> bool:
    """Return whether a folder holds a run's record; none has a name that is too long for a file."""
    try:
        return (folder / RECORD).is_file()
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        return False


def _told(record: dict[str, Any]) -> str:
    """Return a run's id and name, and what tells it from others of that name."""
    status = "finished" if (record["folder"] / RESULT).is_file() else "not finished"
    began = f"{_start(record):%Y-%m-%d %H:%M} UTC"
    return f"{record['run_id'][:8]} ({record['run_name']}, {status}, {began})"


def make_runs_folder(config: TrackingConfig) -> None:
    """Create the folder of all runs; ConfigError, before any run exists, if that cannot be done."""
    runs = tracking_root(config) / "runs"
    try:
        runs.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"expected a folder for runs at {runs}, got {error}: choose another with "
            "tracking.root=FOLDER"
        ) from error


def make_run_dir(
    config: TrackingConfig,
    run_id: str,
    run_name: str,
    uri: str | None,
    kind: Kind = "run",
    experiment_id: str | None = None,
    tags: Mapping[str, str] | None = None,
) -> Path:
    """Create a run's folder and, durably, its record, and return the folder.

    `tags`: those with which its store created it.
    """
    run_dir = tracking_root(config) / "runs" / run_id
    run_dir.mkdir(exist_ok=True)
    record: dict[str, Any] = {FORMAT_KEY: FORMAT, "run_id": run_id, "run_name": run_name}
    record |= {
        "started_ms": time.time_ns() // 1_000_000,
        "kind": kind,
        "experiment": config.experiment,
        "experiment_id": experiment_id,
        "tracked": uri is not None,
        "uri": mask(uri or ""),
        "tags": dict(tags or {}),
    }
    write_json(run_dir / RECORD, record)
    return run_dir
