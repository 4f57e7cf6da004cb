"""The first contact with an MLflow store: whether it answers, its experiment, a run's place there.

Who types a command decides where a run's record goes: the store of the present settings gets the
entries of a run that it knows, and of another run only with `--anew`, as a new run. The store that
a run's record names is told to the user, no more.
"""

import contextlib
import os
import platform
import shlex
import sqlite3
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from pipeline.config.tracking import (
    MAX_RUN_NAME,
    TrackingConfig,
    sqlite_path,
    tracking_root,
    tracking_uri,
)
from pipeline.files.paths import error_line, git_revision, is_ray_job, mask
from pipeline.runs.record import read_record, update_record
from pipeline.tracking.mlflow_settings import quiet_mlflow
from pipeline.tracking.mlflow_sink import MlflowSink
from pipeline.tracking.outbox import write_cursor
from spire_core.errors import ConfigError, RunError, StoreError

if TYPE_CHECKING:
    from mlflow import MlflowClient

PARENT = "mlflow.parentRunId"  # the tag of a nested run
CREATION = "spire.creation"  # the tag of one creation, which MLflow may have done twice
UNKNOWN = "RESOURCE_DOES_NOT_EXIST"
FIRST_S = 5.0  # for a server's first sign of life
PACKAGES = {"spire": "spire-diffusion", "torch": "torch", "ray": "ray", "mlflow": "mlflow"}

# --- the store ------------------------------------------------------------------------------------


@contextlib.contextmanager
def first_contact(uri: str) -> "Iterator[MlflowClient]":
    """Yield a client; whatever the store raises meanwhile becomes one sentence."""
    quiet_mlflow()
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError  # raised for an unreadable address

    path = sqlite_path(uri)
    if path is not None:
        _check_database(path)
    try:
        # One process at a time opens a database, since two that create it at once break it.
        with contextlib.nullcontext() if path is None else FileLock(f"{path}.lock"):
            _check_server(uri)
            yield MlflowClient(uri)
    except (MlflowException, SQLAlchemyError, ImportError) as error:  # or no driver
        raise StoreError(
            f"expected an MLflow store at {mask(uri)}, got {error_line(error)!r}: start its "
            "server, or choose another with tracking.uri=URI or MLFLOW_TRACKING_URI, or set "
            "tracking.enabled=false"
        ) from None


def in_store(uri: str) -> str:
    """Return the variable that stands before a command of MLflow on this store, masked."""
    return f"MLFLOW_TRACKING_URI={shlex.quote(mask(uri))}"


def _check_server(uri: str) -> None:
    """Raise MlflowException, within seconds, unless a server answers, whatever it answers."""
    from mlflow.utils.credentials import get_default_host_creds
    from mlflow.utils.rest_utils import http_request

    if uri.startswith(("http://", "https://")):
        creds = get_default_host_creds(uri)
        http_request(creds, "/health", "GET", max_retries=3, timeout=FIRST_S, raise_on_status=False)


def _check_database(path: Path) -> None:
    """Raise what keeps sqlite from opening a file; MLflow would try for a minute first."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA schema_version").fetchone()
    except (OSError, sqlite3.Error) as error:
        raise StoreError(
            f"expected an sqlite database at {path}, got {error}: wait until no other process "
            "writes to it, or choose a folder that can be written with tracking.root=FOLDER"
        ) from error


# --- experiments and runs -------------------------------------------------------------------------


def experiment_id(client: "MlflowClient", config: TrackingConfig, uri: str) -> str:
    """Return the experiment's id, creating it if it is new; a server places artifacts itself."""
    from mlflow.exceptions import MlflowException

    experiment = client.get_experiment_by_name(config.experiment)
    if experiment is None:
        place = (tracking_root(config) / "artifacts").as_uri() if sqlite_path(uri) else None
        try:
            return client.create_experiment(config.experiment, artifact_location=place)
        except MlflowException:  # another process was faster, or it cannot be created at all
            experiment = client.get_experiment_by_name(config.experiment)
            if experiment is None:
                raise
    if experiment.lifecycle_stage != "active":
        raise ConfigError(
            f"expected an active experiment, got {config.experiment!r}, which was deleted: run "
            f"`{in_store(uri)} mlflow experiments restore -x {experiment.experiment_id}`, or set "
            "tracking.experiment=OTHER"
        )
    return experiment.experiment_id


def create_run(
    client: "MlflowClient", experiment_id: str, run_name: str, tags: Mapping[str, str]
) -> str:
    """Create a run, and only one, and return its id: MLflow repeats what has no answer."""
    creation = uuid.uuid4().hex
    name = run_name[:MAX_RUN_NAME]
    client.create_run(experiment_id, tags={**tags, CREATION: creation}, run_name=name)
    run, *doubles = client.search_runs([experiment_id], f"tags.`{CREATION}` = '{creation}'")
    for double in doubles:
        client.delete_run(double.info.run_id)
    return run.info.run_id


def stage_of(client: "MlflowClient", run_id: str) -> str:
    """Return active or deleted, or none if the store does not know the run."""
    from mlflow.exceptions import MlflowException

    try:
        return client.get_run(run_id).info.lifecycle_stage
    except MlflowException as error:
        if error.error_code != UNKNOWN:
            raise
        return "none"


# --- a known run in the present store -------------------------------------------------------------


def sink_of(run_dir: Path, config: TrackingConfig, is_anew: bool = False) -> MlflowSink:
    """Return the sink of a run in the present store.

    RunError, before anything is sent or created, if that store does not know the run, or has
    deleted it. With `is_anew`, one that it does not know begins there as a new run, which gets all
    entries; the caller holds the run's lock. Raises as `check_store` does.
    """
    uri, record = tracking_uri(config), read_record(run_dir)
    path = sqlite_path(uri)
    if path is not None and not path.is_file() and not is_anew:
        raise _not_there(record, uri)
    with first_contact(uri) as client:
        stage = stage_of(client, record["run_id"])
        if stage == "deleted":
            raise RunError(
                f"expected run {record['run_id']} in the store {mask(uri)}, got deleted: restore "
                f"it with {in_store(uri)} mlflow runs restore --run-id {record['run_id']}"
            )
        if stage == "none" and not is_anew:
            raise _not_there(record, uri)
        if stage == "none":
            place = experiment_id(client, replace(config, experiment=record["experiment"]), uri)
            run_id = create_run(client, place, record["run_name"], record["tags"])
            write_cursor(run_dir, 0, mask(uri))
            update_record(run_dir, run_id=run_id, experiment_id=place, uri=mask(uri))
        return MlflowSink(client, read_record(run_dir)["run_id"], run_dir)


def _not_there(record: Mapping[str, Any], uri: str) -> RunError:
    """Return the error of a run that the present store does not know, with the words to paste."""
    word = shlex.quote(f"tracking.uri={record['uri']}")
    advice = f"add {word} to go on where it began, or --anew to deliver all of it to this store "
    advice += "as a new run"
    if record["kind"] == "sweep":  # with a word it would be another sweep
        advice = f"set {in_store(record['uri'])} to go on where it began"
    return RunError(f"expected run {record['run_id']} in the store {mask(uri)}, got none: {advice}")


# --- where a run comes from -----------------------------------------------------------------------


def origin_tags() -> dict[str, str]:
    """Return the tags by which MLflow names a run's user and source, and those of `versions`."""
    tags = {
        "mlflow.user": os.environ.get("USER", "unknown"),
        "mlflow.source.name": "spire",
        "mlflow.source.type": "JOB" if is_ray_job() else "LOCAL",
        "mlflow.source.git.commit": git_revision(),
    }
    return tags | {f"version.{name}": text for name, text in versions().items()}


def versions() -> dict[str, str]:
    """Return the versions of this project, Python, and the packages that decide a result."""
    found = {"python": platform.python_version()}
    for name, package in PACKAGES.items():
        try:
            found[name] = version(package)
        except PackageNotFoundError:  # a checkout that is not installed
            found[name] = "unknown"
    return found
