"""The first contact with an MLflow store: whether it answers, its experiment, a known run.

Here too, mlflow is imported only inside functions.
"""

import contextlib
import logging
import shlex
import sqlite3
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.config.tracking import TrackingConfig, sqlite_path, tracking_root
from pipeline.files.paths import error_line, mask
from pipeline.tracking.mlflow_errors import UNKNOWN, is_retryable, patiently
from pipeline.tracking.mlflow_settings import quiet_mlflow, soon, without_retries
from spire_core.errors import ConfigError, StoreError, first_line

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

CREATION = "spire.creation"  # the tag by which a run is found if the answer to its creation is lost
QUOTES = "'\")"  # in which urllib3 wraps the message of a cause
LOCKED = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)

_log = logging.getLogger(__name__)


@contextlib.contextmanager
def first_contact(uri: str) -> "Iterator[MlflowClient]":
    """Yield a client; whatever the store raises meanwhile becomes one sentence, within seconds."""
    quiet_mlflow()
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError  # raised for an unreadable address

    path = sqlite_path(uri)
    if path is not None:
        _check_database(path)
    lock = contextlib.nullcontext() if path is None else _creation_lock(path)
    try:
        with lock, soon():
            yield MlflowClient(uri)
    except (
        MlflowException,
        SQLAlchemyError,
        ImportError,
    ) as error:  # or no driver
        raise StoreError(
            f"expected an MLflow store at {mask(uri)}, got {_reason(error)!r}: start its server, "
            "or choose another with tracking.uri=URI or MLFLOW_TRACKING_URI, or set "
            "tracking.enabled=false"
        ) from None


def _reason(error: Exception) -> str:
    """Return what an error says; one of the network names its cause without all that wrap it."""
    text = mask(first_line(error))
    _, is_wrapped, cause = text.rpartition("(Caused by ")
    return f"no answer, {cause.rstrip(QUOTES).rpartition(': ')[2]}" if is_wrapped else text


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


def in_store(uri: str) -> str:
    """Return the variable that stands before a command of MLflow on this store, masked."""
    return f"MLFLOW_TRACKING_URI={shlex.quote(mask(uri))}"


def run_of(client: "MlflowClient", run_id: str) -> "Run | None":
    """Return a run as the store has it, or None if the store does not know it."""
    from mlflow.exceptions import MlflowException

    try:
        return client.get_run(run_id)
    except MlflowException as error:
        if error.error_code != UNKNOWN:
            raise
        return None


def stage_of(client: "MlflowClient", run_id: str) -> str:
    """Return active or deleted, or none if the store does not know the run."""
    run = run_of(client, run_id)
    return "none" if run is None else run.info.lifecycle_stage


def create_run(
    client: "MlflowClient", experiment_id: str, run_name: str, tags: Mapping[str, str]
) -> "Run":
    """Create a run, and only one: if the answer is lost, a tag of its own says whether it exists.

    MLflow would repeat the request, and leave a second run as RUNNING.
    """
    creation = uuid.uuid4().hex

    def find_or_create() -> "Run":
        found = client.search_runs([experiment_id], f"tags.`{CREATION}` = '{creation}'")
        return found[0] if found else create()

    def create() -> "Run":
        with without_retries():
            return client.create_run(
                experiment_id, tags={**tags, CREATION: creation}, run_name=run_name
            )

    try:
        return create()
    except Exception as error:
        if not is_retryable(error):
            raise
    return patiently(find_or_create)


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
