"""Settings of what is recorded and where (`tracking.*`), and the addresses that follow."""

import os
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from pipeline.files.masking import mask
from pipeline.files.paths import base_folder, lasting
from spire_core.errors import ConfigError


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
