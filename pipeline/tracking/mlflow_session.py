"""The first contact with an MLflow store: whether it answers, its experiment, a run's place there.

Who types a command decides where a run's record goes: the store of the present settings gets the
entries of a run that it knows, and of another run only with `--anew`, as a new run. The store that
a run's record names is told to the user, no more.

Here and in the other files of this folder mlflow is imported only inside functions: it takes a
second, and not every command needs it.
"""

import contextlib
import logging
import os
import platform
import shlex
import sqlite3
import uuid
from collections.abc import Callable, Iterator, Mapping
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
from pipeline.tracking.mlflow_sink import MlflowSink
from pipeline.tracking.outbox import write_cursor
from spire_core.errors import RunError, StoreError

if TYPE_CHECKING:
    from mlflow import MlflowClient

PARENT = "mlflow.parentRunId"  # the tag of a nested run
CREATION = "spire.creation"  # the tag of one creation, which MLflow may have done twice
UNKNOWN = "RESOURCE_DOES_NOT_EXIST"
FIRST_S = 5.0  # for a server's first sign of life
PACKAGES = {"spire": "spire-diffusion", "torch": "torch", "ray": "ray", "mlflow": "mlflow"}

DEFAULTS = {  # of the environment; what the user has set stays
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    # A request that fails is repeated at once; the relay has the longer pauses.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "5",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "0",
}

# --- the store ------------------------------------------------------------------------------------


def quiet_mlflow() -> None:
    """Import mlflow with our defaults, and without messages about creating a database."""
    for key, value in DEFAULTS.items():
        os.environ.setdefault(key, value)
    import mlflow  # noqa: F401  (it sets its loggers' levels when it is imported)

    for name in ("mlflow", "alembic"):
        logger = logging.getLogger(name)
        logger.setLevel(max(logger.level, logging.WARNING))
    # These repeat what is raised as well, or is mended by the next try.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)


@contextlib.contextmanager
def first_contact(uri: str) -> "Iterator[MlflowClient]":
    """Yield a client; whatever the store raises meanwhile becomes one sentence."""
    quiet_mlflow()
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError  # raised for an unreadable address

    path = sqlite_path(uri)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
    try:
        # One process at a time opens a database, since two that create it at once break it.
        with contextlib.nullcontext() if path is None else FileLock(f"{path}.lock"):
            _check_answer(uri)
            yield MlflowClient(uri)
    except (MlflowException, SQLAlchemyError, sqlite3.Error, ImportError) as error:  # or no driver
        raise StoreError(
            f"expected an MLflow store at {mask(uri)}, got {error_line(error)!r}: start its "
            "server, or choose another with tracking.uri=URI or MLFLOW_TRACKING_URI, or set "
            "tracking.enabled=false"
        ) from None


def _check_answer(uri: str) -> None:
    """Raise, within seconds, unless a store answers, whatever it answers: MLflow tries longer."""
    from mlflow.utils.credentials import get_default_host_creds
    from mlflow.utils.rest_utils import http_request

    path = sqlite_path(uri)
    if path is not None:
        with contextlib.closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA schema_version").fetchone()
    elif uri.startswith(("http://", "https://")):
        creds = get_default_host_creds(uri)
        http_request(creds, "/health", "GET", max_retries=3, timeout=FIRST_S, raise_on_status=False)


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
        raise _not_there(record, uri, "none")
    with first_contact(uri) as client:
        stage = stage_of(client, record["run_id"])
        if stage == "deleted" or (stage == "none" and not is_anew):
            raise _not_there(record, uri, stage)
        if stage == "none":
            place = experiment_id(client, replace(config, experiment=record["experiment"]), uri)
            run_id = create_run(client, place, record["run_name"], record["tags"])
            write_cursor(run_dir, 0, mask(uri))
            update_record(run_dir, run_id=run_id, experiment_id=place, uri=mask(uri))
        return MlflowSink(client, read_record(run_dir)["run_id"], run_dir)


def _not_there(record: Mapping[str, Any], uri: str, stage: str) -> RunError:
    """Return the error of a run that the present store has not, with the words to paste."""
    run_id, began = record["run_id"], record["uri"]
    if stage == "deleted":
        there = f"MLFLOW_TRACKING_URI={shlex.quote(mask(uri))}"
        advice = f"restore it with {there} mlflow runs restore --run-id {run_id}"
    elif record["kind"] == "sweep":  # with a word it would be another sweep
        advice = f"set MLFLOW_TRACKING_URI={shlex.quote(began)} to go on where it began"
    else:
        advice = f"add {shlex.quote(f'tracking.uri={began}')} to go on where it began, or --anew "
        advice += "to deliver all of it to this store as a new run"
    return RunError(f"expected run {run_id} in the store {mask(uri)}, got {stage}: {advice}")


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


# --- the machine's load ---------------------------------------------------------------------------


def system_load(config: TrackingConfig) -> Callable[[], dict[str, float]] | None:
    """Return a function that samples this machine, None unless MLflow's own switch is on.

    It returns the metrics since its last call, in MLflow's names and units. The samples, one for
    each round, go through the outbox like every metric, so that a server that does not answer loses
    none.
    """
    if not config.enabled:
        return None
    from mlflow.environment_variables import MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

    if not MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING.get():
        return None
    monitor: Any = SystemMetricsMonitor("never started", tracking_uri=tracking_uri(config))

    def sample() -> dict[str, float]:
        monitor.collect_metrics()
        sampled = monitor.aggregate_metrics()
        for one in monitor.monitors:
            one.clear_metrics()
        return {f"system/{key}": value for key, value in sampled.items()}

    sample()  # the use of a processor is counted from one sample to the next
    return sample
