"""Settings of what is recorded and where (`tracking.*`), and the addresses that follow."""

import os
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pipeline.files.paths import base_folder, lasting, mask
from spire_core.config.checks import Range, check_fields, require

UI_HOST, UI_PORT = "127.0.0.1", 5000  # of the `mlflow ui` that `ui_command` names
MAX_RUN_NAME = 250  # characters that the databases of MLflow have room for
SERVERS = ("http://", "https://", "databricks")


@dataclass(frozen=True)
class TrackingConfig:
    """Whether and where runs are recorded.

    `uri`: an MLflow tracking URI; None is the environment's MLFLOW_TRACKING_URI, else the database
    `<root>/mlflow.db`. `root`: the folder of that database and of `runs/`, which holds the local
    files of each run; None is `base_folder()` ($SPIRE_ROOT, else the current directory, but ~/spire
    in a Ray job). `checkpoint_every`: rounds between two checkpoints, 0 for one after the last
    round alone. `keep_checkpoints`: the number of newest checkpoints to keep. `storage`: a URI such
    as s3://BUCKET/FOLDER, where checkpoints are kept as well, in a folder for each run. `profile`:
    write a torch.profiler trace of a few rounds into the run's folder.
    """

    enabled: bool = True
    uri: str | None = None
    root: str | None = None
    experiment: str = "spire"
    run_name: str | None = None
    log_model: bool = True
    checkpoint_every: Annotated[int, Range(0)] = 50
    keep_checkpoints: Annotated[int, Range(1)] = 2
    storage: str | None = None
    profile: bool = False

    def __post_init__(self) -> None:
        check_fields(self, "tracking")
        is_uri = self.storage is None or "://" in self.storage
        advice = "such as s3://BUCKET/FOLDER or file:///FOLDER"
        require(is_uri, "tracking.storage as a URI", self.storage, advice)


def tracking_root(config: TrackingConfig) -> Path:
    """Return the absolute folder that holds `runs/` and, unless a URI is set, the database."""
    return lasting(config.root, "tracking.root") if config.root else base_folder()


def tracking_uri(config: TrackingConfig) -> str:
    """Return the store's URI: the config's, else MLFLOW_TRACKING_URI, else sqlite in the root.

    It holds a password if the given one does: `mask` it before showing it.
    """
    uri = config.uri or os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db"
    path = sqlite_path(uri)
    if path is None:
        return uri
    _, mark, query = uri.partition("?")
    return f"sqlite:///{tracking_root(config) / path}{mark}{query}"  # workers have other folders


def sqlite_path(uri: str) -> Path | None:
    """Return the file of an sqlite URI, or None for any other store; settings may follow a `?`."""
    place = uri.partition("?")[0]
    return Path(place.removeprefix("sqlite:///")) if place.startswith("sqlite:///") else None


def ui_command(config: TrackingConfig) -> str:
    """Return the shell command that shows the runs, or the (masked) address of their server."""
    uri = mask(tracking_uri(config))
    if uri.startswith(SERVERS):
        return ui_address(config)
    return f"mlflow ui --backend-store-uri {shlex.quote(uri)} --host {UI_HOST} --port {UI_PORT}"


def ui_address(config: TrackingConfig, experiment_id: str | None = None) -> str:
    """Return the (masked) address of an experiment in MLflow's UI; of all of them without an id.

    A store that is no server is shown at the address that `ui_command` serves. Without the words
    after the question mark, MLflow shows traces of language models in place of training runs.
    """
    uri = mask(tracking_uri(config))
    if uri.startswith("databricks"):
        return uri
    server = uri.rstrip("/") if uri.startswith(SERVERS) else f"http://{UI_HOST}:{UI_PORT}"
    place = "" if experiment_id is None else f"/{experiment_id}"
    return f"{server}/#/experiments{place}?workflowType=machine_learning"


def run_address(config: TrackingConfig, experiment_id: str, run_id: str) -> str:
    """Return the (masked) address of a run in MLflow's UI, as `ui_address` has its experiment's."""
    page, mark, mode = ui_address(config, experiment_id).partition("?")
    return f"{page}/runs/{run_id}{mark}{mode}" if mark else page


def ui_text(config: TrackingConfig, experiment_id: str | None = None) -> str:
    """Return where to look at the runs: an address, after the command that serves it if needed."""
    address = ui_address(config, experiment_id)
    is_served = mask(tracking_uri(config)).startswith(SERVERS)
    return address if is_served else f"{ui_command(config)}\n  and open {address}"
