"""Settings of what is recorded and where (`tracking.*`), and the addresses that follow."""

import os
import re
import shlex
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated
from urllib.parse import unquote, urlsplit

from pipeline.files.masking import mask
from pipeline.files.paths import base_folder, lasting
from spire_core.config.checks import Range, check_fields, hint, require

UI_HOST, UI_PORT = "127.0.0.1", 5000  # of the `mlflow ui` that `ui_command` names
STORES = ("http", "https", "sqlite", "postgresql", "mysql", "mssql")  # of MLflow, and databricks
MAX_RUN_NAME, MAX_EXPERIMENT = 250, 256  # characters that MLflow's databases have room for
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
        name = self.experiment
        require(name.strip() != "", "tracking.experiment to be a name", repr(name), "such as spire")
        if self.uri is not None:
            _check_uri("tracking.uri", self.uri)
        is_uri = self.storage is None or re.match(r"[a-z0-9+.-]+://.", self.storage) is not None
        advice = "such as s3://BUCKET/FOLDER or file:///FOLDER"
        require(is_uri, "tracking.storage as a URI", repr(self.storage), advice)


def _check_uri(name: str, uri: str) -> None:
    """Raise ConfigError unless a setting or variable of this name holds a URI of MLflow."""
    advice = _uri_advice(uri)
    expected = f"{name} as a URI such as http://HOST:5000 or sqlite:////FOLDER/mlflow.db"
    require(advice is None, expected, repr(uri.rpartition("@")[2]), advice or "")


def _uri_advice(uri: str) -> str | None:
    """Return what to do about an address that MLflow does not take; None for one that it may."""
    scheme, sep, rest = uri.partition("://")
    if uri.startswith(("databricks", "uc:")):
        return None
    if uri != uri.strip():
        return "remove the space at its end" if uri == uri.lstrip() else "remove the space"
    if not sep or scheme == "file":
        meant = None if sep else _meant_uri(uri)
        return f"write {meant}" if meant else "MLflow no longer keeps runs in a plain folder"
    if scheme in ("http", "https"):
        return _server_advice(uri)
    if scheme == "sqlite" and not rest.startswith("/"):
        return f"write sqlite:///{rest}"
    kind = scheme.partition("+")[0]  # mysql of mysql+pymysql
    is_known = kind in STORES or bool(entry_points(group="mlflow.tracking_store", name=scheme))
    return None if is_known else f"{hint(kind, STORES)} MLflow knows {', '.join(STORES)}"


def _server_advice(uri: str) -> str | None:
    """Return what to do about the address of a server; None if it can be one."""
    if "#" in uri:
        return "leave out # and what follows, which is the page that a browser shows"
    try:
        parts = urlsplit(uri)
        return None if parts.hostname and parts.port != 0 else "name a host"
    except ValueError:  # of the port
        return "a port is a number in 1..65535"


def _meant_uri(uri: str) -> str | None:
    """Return the URI that an address without :// was probably meant to be."""
    if re.fullmatch(r"[\w.-]+:\d+/?", uri):
        return f"http://{uri}"
    if re.fullmatch(r"localhost|\d+(\.\d+){3}", uri):
        return f"http://{uri}:{UI_PORT}"
    if match := re.fullmatch(r"(https?)[:/]+(.+)", uri):
        return f"{match[1]}://{match[2]}"
    return f"sqlite:///{Path(uri).absolute()}" if uri.endswith(".db") else None


def tracking_root(config: TrackingConfig) -> Path:
    """Return the absolute folder that holds `runs/` and, unless a URI is set, the database."""
    return lasting(config.root, "tracking.root") if config.root else base_folder()


def tracking_uri(config: TrackingConfig) -> str:
    """Return the store's absolute URI: the config's, else MLFLOW_TRACKING_URI, else sqlite in root.

    It holds a password if the given one does: `mask` it before showing it. ConfigError if it is no
    URI that MLflow can use.
    """
    root = tracking_root(config)
    given = os.environ.get("MLFLOW_TRACKING_URI")
    uri = config.uri or given or "sqlite:///mlflow.db"
    _check_uri("tracking.uri" if config.uri else "MLFLOW_TRACKING_URI", uri)
    path = sqlite_path(uri)
    if path is None:
        return uri
    place = str(root / path)
    is_plain = "?" not in place and unquote(place) == place  # else the file would lie elsewhere
    advice = "choose another folder with tracking.root=FOLDER, or write the path as it is"
    require(is_plain, "a path without ? and without codes such as %20 for sqlite", place, advice)
    _, mark, query = uri.partition("?")
    return f"sqlite:///{root / path}{mark}{query}"  # workers run in other directories


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
