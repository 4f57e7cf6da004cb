"""What `tracking.py` asks of MLflow in several steps: a first contact, an experiment, a model.

Here too, mlflow is imported only inside functions.
"""

import contextlib
import logging
import os
import sqlite3
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline.runs import TrackingConfig, mask, sqlite_path, tracking_root
from spire_core.errors import ClusterError, ConfigError

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel

PACKAGE = Path(__file__).resolve().parent
MODEL_NEEDS = ("mlflow", "numpy", "omegaconf", "pillow", "pyyaml", "safetensors", "torch", "tqdm")
QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}


@contextlib.contextmanager
def first_contact(config: TrackingConfig, uri: str) -> "Iterator[MlflowClient]":
    """Yield a client; what the store refuses meanwhile is raised as one sentence, and soon."""
    _quiet_mlflow()
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    path = sqlite_path(uri)
    if path is not None:
        _check_database(path)
    lock = contextlib.nullcontext() if path is None else _creation_lock(path)
    patience = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}
    try:
        with lock, _environment_defaults(patience):
            yield MlflowClient(uri)
    except MlflowException as error:
        reason = mask(str(error)).splitlines()[0]
        raise ClusterError(
            f"expected an MLflow store at {mask(uri)}, got {reason!r}: start its server, or choose "
            "another with tracking.uri=URI or MLFLOW_TRACKING_URI, or set tracking.enabled=false"
        ) from None


def _quiet_mlflow() -> None:
    """Import mlflow without telemetry and without messages about creating a database."""
    for key, value in QUIET.items():
        os.environ.setdefault(key, value)
    import mlflow  # noqa: F401  (it sets its loggers' levels when it is imported)

    for name in ("mlflow", "alembic"):
        logger = logging.getLogger(name)
        logger.setLevel(max(logger.level, logging.WARNING))


@contextlib.contextmanager
def _environment_defaults(values: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables that are not set, for the length of the block."""
    new = {key: value for key, value in values.items() if key not in os.environ}
    os.environ.update(new)
    try:
        yield
    finally:
        for key in new:
            os.environ.pop(key, None)


def _check_database(path: Path) -> None:
    """Raise ConfigError if sqlite cannot open a file, over which MLflow would try for a minute."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA schema_version").fetchone()
    except (OSError, sqlite3.Error) as error:
        raise ConfigError(
            f"expected an sqlite database at {path}, got {error}: choose a folder that can be "
            "written with tracking.root=FOLDER"
        ) from error


@contextlib.contextmanager
def _creation_lock(path: Path) -> Iterator[None]:
    """Let one process at a time open a database: two that create it at once break its tables."""
    import fcntl

    with path.with_name(f"{path.name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def experiment_id(client: "MlflowClient", config: TrackingConfig, uri: str) -> str:
    """Return the experiment's id, creating it if it is new; a server places artifacts itself."""
    from mlflow.exceptions import MlflowException

    experiment = client.get_experiment_by_name(config.experiment)
    if experiment is None:
        here = tracking_root(config) / "artifacts"
        place = None if sqlite_path(uri) is None else here.as_uri()
        try:
            return client.create_experiment(config.experiment, artifact_location=place)
        except MlflowException:  # another process was faster, or it cannot be created at all
            experiment = client.get_experiment_by_name(config.experiment)
            if experiment is None:
                raise
    if experiment.lifecycle_stage != "active":
        raise ConfigError(
            f"expected an active experiment, got {config.experiment!r}, which was deleted: run "
            f"`mlflow experiments restore -x {experiment.experiment_id}`, or set "
            "tracking.experiment=OTHER"
        )
    return experiment.experiment_id


def log_model(
    client: "MlflowClient",
    run_id: str,
    folder: Path,
    image_shape: tuple[int, int, int],
    guidance: float,
) -> str:
    """Record a saved run as a model of run `run_id` and return its URI; see `Tracker.log_model`."""
    from mlflow.entities import LoggedModelOutput

    run = client.get_run(run_id)
    model = client.create_logged_model(
        run.info.experiment_id, "generator", source_run_id=run_id, params=run.data.params
    )
    with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings():
        # MLflow warns of one of its own type hints, and that there is no input example.
        warnings.filterwarnings("ignore", category=UserWarning, module=r"mlflow\.")
        try:
            _save_model(Path(scratch, "model"), folder, model, image_shape, guidance)
            client.log_model_artifacts(model.model_id, str(Path(scratch, "model")))
        except BaseException:
            client.finalize_logged_model(model.model_id, "FAILED")
            raise
    client.finalize_logged_model(model.model_id, "READY")
    client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=0)])
    return f"models:/{model.model_id}"


def _save_model(
    path: Path, run: Path, model: "LoggedModel", image_shape: tuple[int, int, int], guidance: float
) -> None:
    """Write the model's files to `path`; log_model would need a process-wide run and URI."""
    import mlflow.pyfunc
    from mlflow.models import Model, ModelSignature
    from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema, TensorSpec

    params = [ParamSpec("seed", "long", 0), ParamSpec("num_images", "long", 1)]
    params += [ParamSpec("guidance", "double", float(guidance))]
    mlflow.pyfunc.save_model(
        path=str(path),
        python_model=str(PACKAGE / "generator_model.py"),
        artifacts={"run": str(run)},
        code_paths=[str(PACKAGE.parent / "spire_core"), str(PACKAGE)],
        pip_requirements=[f"{n}=={metadata.version(n).split('+')[0]}" for n in MODEL_NEEDS],
        signature=ModelSignature(
            inputs=Schema([ColSpec("long", "client_id")]),
            outputs=Schema([TensorSpec(np.dtype(np.float32), (-1, *image_shape))]),
            params=ParamSchema(params),
        ),
        mlflow_model=Model(
            artifact_path=model.artifact_location,
            run_id=model.source_run_id,
            model_uuid=model.model_id,
            model_id=model.model_id,
        ),
    )
