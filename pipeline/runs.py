"""Where runs are: their folders and records on this machine, the store's address, the revision.

Under a root lie `mlflow.db`, unless another store is named, and `runs/<run id>/`, where
`tracking.json` is the record that `find_run` and `Tracker.resume` read.
"""

import json
import logging
import os
import re
import shlex
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pipeline.ray_job import base_folder, expanded, lasting
from pipeline.reading import read_object, reading
from spire_core.errors import ConfigError, RunError

RECORD = "tracking.json"
RECORD_TYPES = {"run_id": str, "run_name": str, "started_ms": int}
RECORD_TYPES |= {"kind": str, "tracked": bool, "uri": str}
Kind = Literal["run", "sweep"]
_log = logging.getLogger(__name__)
_PASSWORD = re.compile(
    r"(://)(?:[^/\s\"']+|[^/:\s\"']*:(?!\d+/)[^\s\"']*)@"  # a database takes / in a password
    r"|([?&;](?:password|passwd|pwd|token|secret)=)[^\s\"'&;]+",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class TrackingConfig:
    """Whether and where runs are recorded.

    `uri`: an MLflow tracking URI; None means the environment's MLFLOW_TRACKING_URI, else the
    database `<root>/mlflow.db`. `root`: the folder of that database and of `runs/`, which holds
    the local files of each run; None means `ray_job.base_folder()`: $SPIRE_ROOT, else the current
    directory, but ~/spire in a Ray job. `checkpoint_every`: rounds between two checkpoints, of
    which the newest `keep_checkpoints` are kept; 0 for one after the last round alone. `storage`: a
    URI such as s3://BUCKET/FOLDER, where checkpoints are kept as well, in a folder for each run.
    `profile`: write a torch.profiler trace of a few rounds into the run's folder (`profiling`).
    """

    enabled: bool = True
    uri: str | None = None
    root: str | None = None
    experiment: str = "spire"
    run_name: str | None = None
    log_model: bool = True
    checkpoint_every: int = 50
    keep_checkpoints: int = 2
    storage: str | None = None
    profile: bool = False

    def __post_init__(self) -> None:
        if self.checkpoint_every < 0 or self.keep_checkpoints < 1:
            raise ConfigError(
                "expected tracking.checkpoint_every of at least 0 and tracking.keep_checkpoints of "
                f"at least 1, got {self.checkpoint_every} and {self.keep_checkpoints}: raise them"
            )
        if not self.experiment.strip():
            raise ConfigError("expected tracking.experiment to be a name, got '': such as spire")
        if self.uri is not None:
            _check_uri(self.uri)
        if self.storage is not None and not re.match(r"[a-z0-9+.-]+://.", self.storage):
            raise ConfigError(
                "expected tracking.storage as a URI, got "
                f"{self.storage!r}: such as s3://BUCKET/FOLDER or file:///FOLDER"
            )


def _check_uri(uri: str) -> None:
    scheme, sep, _ = uri.partition("://")
    if (not sep or scheme == "file") and not uri.startswith("databricks"):
        raise ConfigError(
            "expected a tracking URI such as http://HOST:5000 or sqlite:////FOLDER/mlflow.db, got "
            f"{uri.rpartition('@')[2]!r}: MLflow no longer keeps runs in a plain folder"
        )


def mask(text: str) -> str:
    """Return a text with the `user:password@` and `?password=` of its URIs replaced by `***`."""
    return _PASSWORD.sub(lambda m: f"{m[1]}***@" if m[1] else f"{m[2]}***", text)


def tracking_root(config: TrackingConfig) -> Path:
    """Return the absolute folder that holds `runs/` and, unless a URI is set, the database."""
    return lasting(config.root, "tracking.root") if config.root else base_folder()


def tracking_uri(config: TrackingConfig) -> str:
    """Return the store's absolute URI: the config's, else MLFLOW_TRACKING_URI, else sqlite in root.

    It holds a password if the given one does: `mask` it before showing it. ConfigError if it is no
    URI that MLflow can use.
    """
    root = tracking_root(config)
    uri = config.uri or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{root}/mlflow.db"
    _check_uri(uri)
    path = sqlite_path(uri)
    if path is None:
        return uri
    if (root / path).resolve().is_relative_to((root / "runs").resolve()):
        raise ConfigError(
            f"expected a store outside of {root / 'runs'}, got {root / path}, which may have come "
            "with a run: move it if it is yours"
        )
    return f"sqlite:///{root / path}"  # workers run in other directories


def sqlite_path(uri: str) -> Path | None:
    """Return the file of an sqlite URI, or None for any other store."""
    return Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite:///") else None


def ui_command(config: TrackingConfig) -> str:
    """Return the shell command that shows the runs, or the (masked) address of their server."""
    uri = mask(tracking_uri(config))
    if uri.startswith(("http://", "https://", "databricks")):
        return uri
    return f"mlflow ui --backend-store-uri {shlex.quote(uri)} --host 127.0.0.1 --port 5000"


def git_revision(source: Path = Path(__file__)) -> str | None:
    """Return the short commit of the checkout of `source`, plus "-dirty" if a file has changed.

    None if there is no git, or no checkout that tracks `source` (as with an installed copy).
    """

    def git(*args: str) -> str | None:
        command = ["git", "-C", str(source.resolve().parent), *args]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    if git("ls-files", "--error-unmatch", source.name) is None:
        return None
    return git("describe", "--always", "--dirty", "--exclude=*")


def read_record(run_dir: Path) -> dict[str, Any]:
    """Return the record of a run, as `make_run_dir` wrote it; RunError if it is damaged."""
    path = run_dir / RECORD
    with reading("a run's record", path, "put back a copy of it, or start a new run"):
        record = {"kind": "run", "tracked": False, "uri": ""} | read_object(path)
        for key, kind in RECORD_TYPES.items():
            if not isinstance(record[key], kind):
                raise TypeError(f"{record[key]!r:.50} as {key}")
        return record


def _records(runs: Path) -> list[dict[str, Any]]:
    """Return the records of all runs of a folder, oldest first."""
    found = []
    for path in runs.glob(f"*/{RECORD}"):
        try:
            found.append(read_record(path.parent) | {"folder": path.parent})
        except RunError as error:  # the other runs can be used all the same
            _log.warning("a run is passed over: %s", error)
    return sorted(found, key=lambda record: record["started_ms"])


def run_folders(config: TrackingConfig) -> list[Path]:
    """Return the folders of all runs and sweeps under the root, oldest first."""
    return [record["folder"] for record in _records(tracking_root(config) / "runs")]


def find_run(run: str, config: TrackingConfig, kinds: Sequence[Kind] = ("run",)) -> Path:
    """Return the folder of a run, given as "last", a name, an id or the head of one, or a path.

    RunError if there is none, or if the name or the head of an id fits several.
    """
    runs = tracking_root(config) / "runs"
    if run and (runs / run / RECORD).is_file():
        read_record(runs / run)  # a damaged one is named, and not passed over
    records = [r for r in _records(runs) if r.get("kind", "run") in kinds]
    if run == "last" and records:
        return records[-1]["folder"]
    fits = [r for r in records if r["run_name"] == run]
    fits = fits or [r for r in records if run and r["run_id"].startswith(run)]
    if len(fits) == 1:
        return fits[0]["folder"]
    folder = expanded(run, "the run")
    if not fits and (folder / RECORD).is_file():
        return folder.resolve()
    what = f"which fits {len(fits)} of them" if fits else f"which is none of those in {runs}"
    known = ", ".join(f"{r['run_id'][:8]} ({r['run_name']})" for r in (fits or records)[-8:])
    raise RunError(
        f"expected a run's id, name or folder, or last, got {run!r}, {what}: "
        f"choose from {known or 'a folder that holds runs, with tracking.root=FOLDER'}"
    )


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
    config: TrackingConfig, run_id: str, run_name: str, uri: str | None, kind: Kind = "run"
) -> Path:
    """Create a run's folder and its record, and return the folder."""
    run_dir = tracking_root(config) / "runs" / run_id
    run_dir.mkdir(exist_ok=True)
    record = {"run_id": run_id, "run_name": run_name, "started_ms": time.time_ns() // 1_000_000}
    record |= {
        "kind": kind,
        "experiment": config.experiment,
        "tracked": uri is not None,
        "uri": mask(uri or ""),
    }
    part = run_dir / f"{RECORD}.part"
    part.write_text(json.dumps(record, indent=1) + "\n")
    part.replace(run_dir / RECORD)
    return run_dir
