"""The first contact with an MLflow store: whether it answers, its experiment, a run's place there.

Who types a command decides where a run's record goes: the store of the present settings gets the
entries of a run that it knows, and of another run only with `--anew`, as a new run. The store that
a run's record names is told to the user, no more.
"""

import contextlib
import logging
import platform
import shlex
import sqlite3
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.config.tracking import (
    MAX_RUN_NAME,
    TrackingConfig,
    sqlite_path,
    tracking_root,
    tracking_uri,
)
from pipeline.files.paths import error_line, git_commit, is_ray_job, mask
from pipeline.runs.record import read_record, update_record
from pipeline.tracking.mlflow_settings import quiet_mlflow
from pipeline.tracking.mlflow_sink import MlflowSink
from pipeline.tracking.outbox import write_cursor
from spire_core.errors import ConfigError, RunError, StoreError, first_line

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

PARENT = "mlflow.parentRunId"  # the tag of a nested run
CREATION = "spire.creation"  # the tag of one creation, which MLflow may have done twice
UNKNOWN = "RESOURCE_DOES_NOT_EXIST"
QUOTES = "'\")"  # in which urllib3 wraps the message of a cause
LOCKED = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
FIRST_S, FIRST_RETRIES = 5.0, 3  # for a server's first sign of life
PACKAGES = {"spire": "spire-diffusion", "torch": "torch", "ray": "ray", "mlflow": "mlflow"}
_log = logging.getLogger(__name__)

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
        with contextlib.nullcontext() if path is None else _creation_lock(path):
            _check_server(uri)
            yield MlflowClient(uri)
    except (MlflowException, SQLAlchemyError, ImportError) as error:  # or no driver
        raise StoreError(
            f"expected an MLflow store at {mask(uri)}, got {_reason(error)!r}: start its server, "
            "or choose another with tracking.uri=URI or MLFLOW_TRACKING_URI, or set "
            "tracking.enabled=false"
        ) from None


def in_store(uri: str) -> str:
    """Return the variable that stands before a command of MLflow on this store, masked."""
    return f"MLFLOW_TRACKING_URI={shlex.quote(mask(uri))}"


def _reason(error: Exception) -> str:
    """Return what an error says; one of the network names its cause without all that wrap it."""
    text = mask(first_line(error))
    _, is_wrapped, cause = text.rpartition("(Caused by ")
    return f"no answer, {cause.rstrip(QUOTES).rpartition(': ')[2]}" if is_wrapped else text


def _check_server(uri: str) -> None:
    """Raise MlflowException, within seconds, unless a server answers, whatever it answers."""
    from mlflow.utils.credentials import get_default_host_creds
    from mlflow.utils.rest_utils import http_request

    if uri.startswith(("http://", "https://")):
        http_request(
            get_default_host_creds(uri),
            "/health",
            "GET",
            max_retries=FIRST_RETRIES,
            timeout=FIRST_S,
            raise_on_status=False,
        )


def _check_database(path: Path) -> None:
    """Raise what keeps sqlite from opening a file; MLflow would try for a minute first.

    StoreError if another process writes to it, else ConfigError.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA schema_version").fetchone()
    except (OSError, sqlite3.Error) as error:
        found = f"expected an sqlite database at {path}, got {error}: "
        if getattr(error, "sqlite_errorcode", None) in LOCKED:
            advice = "another process writes to it, so wait until that ends and try again"
            raise StoreError(found + advice) from error
        advice = "choose a folder that can be written with tracking.root=FOLDER"
        raise ConfigError(found + advice) from error


@contextlib.contextmanager
def _creation_lock(path: Path) -> Iterator[None]:
    """Let one process at a time open a database, since two that create it at once break it."""
    import fcntl

    with path.with_name(f"{path.name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


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
) -> "Run":
    """Create a run, and only one: MLflow repeats a request whose answer is lost."""
    creation = uuid.uuid4().hex
    name = run_name[:MAX_RUN_NAME]
    client.create_run(experiment_id, tags={**tags, CREATION: creation}, run_name=name)
    run, *doubles = client.search_runs([experiment_id], f"tags.`{CREATION}` = '{creation}'")
    for double in doubles:
        client.delete_run(double.info.run_id)
    return run


@contextlib.contextmanager
def failed_if_not_begun(client: "MlflowClient", run_id: str) -> Iterator[None]:
    """End a new run as FAILED if the block, which begins it on this machine, raises."""
    try:
        yield
    except BaseException:
        try:
            client.set_terminated(run_id, "FAILED")
        except Exception as error:  # must not hide the error that the block has raised
            _log.warning("the end of run %s is not recorded: %s", run_id, error_line(error))
        raise


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
            info = create_run(client, place, record["run_name"], record["tags"]).info
            with failed_if_not_begun(client, info.run_id):
                write_cursor(run_dir, 0, mask(uri))
                now = {"run_id": info.run_id, "experiment_id": info.experiment_id, "uri": mask(uri)}
                update_record(run_dir, **now)
        return MlflowSink(client, read_record(run_dir)["run_id"], run_dir, is_new=stage == "none")


def _not_there(record: Mapping[str, Any], uri: str) -> RunError:
    """Return the error of a run that the present store does not know, with the words to paste."""
    began, here = record["uri"], mask(uri)
    advice = "--anew delivers all of it there as a new run"
    if record["kind"] == "sweep":  # with a word it would be another sweep
        advice = f"set {in_store(began)} to go on where it began"
    elif began != here:
        word = shlex.quote(f"tracking.uri={began}")
        advice = f"add {word} to go on where it began, or --anew to deliver all of it to this "
        advice += "store as a new run"
    return RunError(f"expected run {record['run_id']} in the store {here}, got none: {advice}")


# --- where a run comes from -----------------------------------------------------------------------


def origin_tags() -> dict[str, str]:
    """Return the tags by which MLflow names a run's user and source, and those of `versions`."""
    from mlflow.tracking.context.default_context import DefaultRunContext

    try:
        tags = DefaultRunContext().tags()
    except (OSError, KeyError):  # a container's user id without a name
        tags = {"mlflow.user": "unknown"}
    tags["mlflow.source.name"] = "spire"
    tags["mlflow.source.type"] = "JOB" if is_ray_job() else "LOCAL"
    if (commit := git_commit()) is not None:  # MLflow's own is of the folder of the command's file
        tags["mlflow.source.git.commit"] = commit
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
