"""Where a run's record goes: its parameters, metrics, images, tables and model, kept by MLflow.

This is the one file that imports mlflow (besides the logged model's own code in
`generator_model.py`), and only inside functions, because importing it takes more than a second.
Every call names its store and its run and waits until the store has answered: nothing is read from
or left in MLflow's process-wide state.

`Tracker.start` begins a run, `Tracker.resume` goes on with one, `find_run` finds its folder here.
"""

import contextlib
import json
import logging
import math
import os
import re
import shlex
import sqlite3
import subprocess
import tempfile
import time
import uuid
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np

from spire_core.errors import ClusterError, ConfigError, RunError

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel

Status = Literal["FINISHED", "FAILED", "KILLED"]

RECORD = "tracking.json"  # in every run's folder: what `find_run` and `Tracker.resume` need to know
PACKAGE = Path(__file__).resolve().parent
MODEL_NEEDS = ("mlflow", "numpy", "omegaconf", "pillow", "pyyaml", "safetensors", "torch", "tqdm")
QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}
MAX_PARAMS = 100  # MLflow's limits for one call of log_batch
MAX_METRICS = 1000
MAX_PARAM_CHARS = 6000  # MLflow cuts longer ones, with a warning
MAX_DIGEST_CHARS = 36
_PASSWORD = re.compile(r"(://)[^/\s\"']+@")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrackingConfig:
    """Whether and where runs are recorded.

    `uri`: an MLflow tracking URI; None means the environment's MLFLOW_TRACKING_URI, else the
    database `<root>/mlflow.db`. `root`: the folder of that database and of `runs/`, which holds
    the local files of each run; None means the current directory.
    """

    enabled: bool = True
    uri: str | None = None
    root: str | None = None
    experiment: str = "spire"
    run_name: str | None = None
    log_model: bool = True

    def __post_init__(self) -> None:
        if not self.experiment.strip():
            raise ConfigError("expected tracking.experiment to be a name, got '': such as spire")
        if self.uri is not None:
            _check_uri(self.uri)


def _check_uri(uri: str) -> None:
    scheme, sep, _ = uri.partition("://")
    if (not sep or scheme == "file") and not uri.startswith("databricks"):
        raise ConfigError(
            "expected a tracking URI such as http://HOST:5000 or sqlite:////FOLDER/mlflow.db, got "
            f"{uri.rpartition('@')[2]!r}: MLflow no longer keeps runs in a plain folder"
        )


def mask(text: str) -> str:
    """Return a text with the `user:password@` of every URI in it replaced by `***@`."""
    return _PASSWORD.sub(r"\1***@", text)


def tracking_root(config: TrackingConfig) -> Path:
    """Return the absolute folder that holds `runs/` and, unless a URI is set, the database."""
    return Path(config.root or ".").expanduser().resolve()


def tracking_uri(config: TrackingConfig) -> str:
    """Return the store's absolute URI: the config's, else MLFLOW_TRACKING_URI, else sqlite in root.

    It holds a password if the given one does: `mask` it before showing it. ConfigError if it is no
    URI that MLflow can use.
    """
    root = tracking_root(config)
    uri = config.uri or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{root}/mlflow.db"
    _check_uri(uri)
    path = _sqlite_path(uri)
    return uri if path is None else f"sqlite:///{root / path}"  # workers run in other directories


def _sqlite_path(uri: str) -> Path | None:
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


# --------------------------------------------------------------------------- runs on this machine


def _records(runs: Path) -> list[dict[str, Any]]:
    """Return the records of all runs of a folder, oldest first."""
    paths = runs.glob(f"*/{RECORD}")
    found = [json.loads(path.read_text()) | {"folder": path.parent} for path in paths]
    return sorted(found, key=lambda record: record["started_ms"])


def find_run(run: str, config: TrackingConfig) -> Path:
    """Return the folder of a run, given as "last", a name, an id or the head of one, or a path.

    RunError if there is none, or if the name or the head of an id fits several.
    """
    runs = tracking_root(config) / "runs"
    records = _records(runs)
    if run == "last" and records:
        return records[-1]["folder"]
    fits = [r for r in records if r["run_name"] == run]
    fits = fits or [r for r in records if run and r["run_id"].startswith(run)]
    if len(fits) == 1:
        return fits[0]["folder"]
    folder = Path(run).expanduser()
    if not fits and (folder / RECORD).is_file():
        return folder.resolve()
    what = f"which fits {len(fits)} of them" if fits else f"which is none of those in {runs}"
    known = ", ".join(f"{r['run_id'][:8]} ({r['run_name']})" for r in (fits or records)[-8:])
    raise RunError(
        f"expected a run's id, name or folder, or last, got {run!r}, {what}: "
        f"choose from {known or 'a folder that holds runs, with tracking.root=FOLDER'}"
    )


def _make_runs_folder(config: TrackingConfig) -> None:
    """Create the folder of all runs; ConfigError, before any run exists, if that cannot be done."""
    runs = tracking_root(config) / "runs"
    try:
        runs.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"expected a folder for runs at {runs}, got {error}: choose another with "
            "tracking.root=FOLDER"
        ) from error


def _make_run_dir(config: TrackingConfig, run_id: str, run_name: str, uri: str | None) -> Path:
    """Create a run's folder and its record, and return the folder."""
    run_dir = tracking_root(config) / "runs" / run_id
    run_dir.mkdir()
    record = {"run_id": run_id, "run_name": run_name, "started_ms": _now_ms()}
    record |= {"experiment": config.experiment, "tracked": uri is not None, "uri": mask(uri or "")}
    part = run_dir / f"{RECORD}.part"
    part.write_text(json.dumps(record, indent=1) + "\n")
    part.replace(run_dir / RECORD)
    return run_dir


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


# --------------------------------------------------------------------------------------- trackers


class Tracker:
    """The record of one run, open until `finish`; a `with` block ends it with the right status.

    This class is the interface and records nothing: `start` and `resume` return an `MlflowTracker`,
    or a `NullTracker` if tracking is off. Each `log_*` returns when the store has answered, and
    raises what the store raises. Passwords inside URIs are masked in what is logged.
    """

    def __init__(self, run_id: str, run_dir: Path, uri: str | None = None) -> None:
        self._run_id, self._run_dir, self._uri = run_id, run_dir, uri
        self._finished = False

    @staticmethod
    def start(
        config: TrackingConfig,
        run_name: str,
        tags: Mapping[str, str],
        parent_run_id: str | None = None,
    ) -> "Tracker":
        """Create a run (and its store and experiment, if they are new) and return its tracker.

        `config.run_name`, if set, replaces `run_name`; `parent_run_id` nests the run below another.
        ConfigError if the settings cannot be used; ClusterError, within seconds, if the store
        does not answer or refuses.
        """
        run_name = config.run_name or run_name
        _make_runs_folder(config)
        if not config.enabled:
            run_id = uuid.uuid4().hex
            return NullTracker(run_id, _make_run_dir(config, run_id, run_name, None))
        uri = tracking_uri(config)
        with _first_contact(config, uri) as client:
            experiment_id = _experiment_id(client, config, uri)
            given = {key: mask(value) for key, value in tags.items()}
            if parent_run_id is not None:
                given["mlflow.parentRunId"] = parent_run_id
            run_id = client.create_run(experiment_id, tags=given, run_name=run_name).info.run_id
        run_dir = _make_run_dir(config, run_id, run_name, uri)
        return MlflowTracker(run_id, run_dir, uri, client, config.log_model)

    @staticmethod
    def resume(config: TrackingConfig, run_dir: Path) -> "Tracker":
        """Return the tracker of an interrupted run, marked as running again.

        A metric's or image's step that the run already holds is not logged a second time, so that
        rounds that are computed again leave no zigzag. Raises as `start` does, and RunError if the
        store does not know the run.
        """
        record = json.loads((run_dir / RECORD).read_text())
        if not record["tracked"] or not config.enabled:
            return NullTracker(record["run_id"], run_dir)
        uri = tracking_uri(config)
        with _first_contact(config, uri) as client:
            tracker = MlflowTracker(record["run_id"], run_dir, uri, client, config.log_model)
            tracker.reopen()
        return tracker

    @property
    def run_id(self) -> str:
        """The run's id: 32 hexadecimal digits."""
        return self._run_id

    @property
    def run_dir(self) -> Path:
        """The run's own folder on this machine, for checkpoints and other files."""
        return self._run_dir

    @property
    def uri(self) -> str | None:
        """The store's URI without any password; None if nothing is recorded."""
        return None if self._uri is None else mask(self._uri)

    def log_params(self, flat: Mapping[str, object]) -> None:
        """Record settings as texts; another value under a name that has one is MLflow's error.

        A resumed run keeps the value that it was started with, and warns where the new one differs.
        """

    def log_tags(self, tags: Mapping[str, str]) -> None:
        """Record tags, replacing those of the same name."""

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Record numbers of one step.

        NaN is kept as NaN, and MLflow keeps an infinite value as the largest float; both are logged
        as a warning.
        """

    def log_image(self, key: str, image: np.ndarray, step: int) -> None:
        """Record an image (H, W, C) uint8, C of 1, 3 or 4, as one step of the key's series.

        ValueError if it is anything else.
        """

    def log_figure(self, figure: "Figure", path: str) -> None:
        """Record a matplotlib figure as the artifact `path`, such as `figures/kid.png`."""

    def log_table(self, path: str, columns: Mapping[str, Sequence[Any]]) -> None:
        """Record columns of one length as the table `path` (.json, as MLflow's), replacing it.

        A number that is not finite becomes null. ValueError if the columns' lengths differ.
        """

    def log_dict(self, values: Mapping[str, Any], path: str) -> None:
        """Record nested values as the artifact `path`, in YAML or JSON by its suffix."""

    def log_dataset(
        self, images: np.ndarray, labels: np.ndarray, name: str, sha256: str, context: str
    ) -> None:
        """Record which data the run used: name, hash, shapes and class counts, but not the data.

        images (N, ...), labels (N,); `sha256` of both in hexadecimal, whose first 36 digits are
        MLflow's digest; `context` says what they were used for, such as `pretrain`.
        """

    def log_model(
        self, folder: Path, image_shape: tuple[int, int, int], guidance: float = 1.0
    ) -> str | None:
        """Record the run as a model that draws images as a client, and return its `models:/` URI.

        `folder` is what `SavedRun.load` reads, and is copied; `image_shape` is (C, H, W);
        `guidance` is the default of the model's parameter. The model carries this project's code,
        and loads where that is not installed. None if no model is recorded (`config.log_model`).
        """

    def finish(self, status: Status = "FINISHED") -> None:
        """End the run; a second call does nothing."""
        self._finished = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._finished:
            return
        if kind is None:
            self.finish("FINISHED")
            return
        stopped = issubclass(kind, KeyboardInterrupt | SystemExit)
        try:
            self.finish("KILLED" if stopped else "FAILED")
        except Exception as lost:  # the error that ended the run matters more than this one
            _log.warning("the end of run %s is not recorded: %s", self.run_id, mask(str(lost)))


class NullTracker(Tracker):
    """Records nothing; the run still has an id and a folder."""


class MlflowTracker(Tracker):
    """Records into an MLflow store through a client of its own."""

    def __init__(
        self, run_id: str, run_dir: Path, uri: str, client: "MlflowClient", keeps_model: bool
    ) -> None:
        super().__init__(run_id, run_dir, uri)
        self._client, self._keeps_model = client, keeps_model
        self._old_params: dict[str, str] = {}
        self._old_steps: set[tuple[str, int]] = set()  # (metric or image file's head, step)

    def reopen(self) -> None:
        """Mark the run as running again and note what it holds; RunError if it does not exist."""
        from mlflow.exceptions import MlflowException

        try:
            data = self._client.get_run(self.run_id).data
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            raise RunError(
                f"expected run {self.run_id} in the store {self.uri}, got none: name its store "
                "with tracking.uri=URI"
            ) from error
        self._old_params = data.params
        for key in data.metrics:
            history = self._client.get_metric_history(self.run_id, key)
            self._old_steps |= {(key, metric.step) for metric in history}
        for artifact in self._client.list_artifacts(self.run_id, "images"):
            head, step, *_ = artifact.path.split("+step+")
            self._old_steps.add((head, int(step.split("+")[0])))
        self._client.update_run(self.run_id, status="RUNNING")

    def log_params(self, flat: Mapping[str, object]) -> None:
        from mlflow.entities import Param

        texts = {key: mask(str(value)) for key, value in flat.items()}
        for key in self._old_params.keys() & texts.keys():
            old = self._old_params[key]
            if texts.pop(key)[:MAX_PARAM_CHARS] != old:
                _log.warning("%s was %s when the run began, and stays so in its record", key, old)
        params = [Param(key, text) for key, text in texts.items()]
        for i in range(0, len(params), MAX_PARAMS):
            chunk = params[i : i + MAX_PARAMS]
            self._client.log_batch(self.run_id, params=chunk, synchronous=True)

    def log_tags(self, tags: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        new = [RunTag(key, mask(value)) for key, value in tags.items()]
        self._client.log_batch(self.run_id, tags=new, synchronous=True)

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        from mlflow.entities import Metric

        odd = [f"{key}={value}" for key, value in metrics.items() if not math.isfinite(value)]
        if odd:
            _log.warning("metrics that are not finite at step %d: %s", step, ", ".join(odd))
        new = {k: float(v) for k, v in metrics.items() if (k, step) not in self._old_steps}
        now = _now_ms()
        batch = [Metric(key, value, now, step) for key, value in new.items()]
        for i in range(0, len(batch), MAX_METRICS):
            chunk = batch[i : i + MAX_METRICS]
            self._client.log_batch(self.run_id, metrics=chunk, synchronous=True)

    def log_image(self, key: str, image: np.ndarray, step: int) -> None:
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] not in (1, 3, 4):
            raise ValueError(
                "expected an image (H, W, C) of uint8 with 1, 3 or 4 channels, got "
                f"{image.shape} of {image.dtype}: convert it before it is logged"
            )
        if (f"images/{key.replace('/', '~')}", step) not in self._old_steps:
            self._client.log_image(self.run_id, image, key=key, step=step, synchronous=True)

    def log_figure(self, figure: "Figure", path: str) -> None:
        self._client.log_figure(self.run_id, figure, path)

    def log_table(self, path: str, columns: Mapping[str, Sequence[Any]]) -> None:
        lists = [[_json_value(value) for value in column] for column in columns.values()]
        rows = [list(row) for row in zip(*lists, strict=True)]
        table = json.dumps({"columns": list(columns), "data": rows}, allow_nan=False)
        self._client.log_text(self.run_id, table, path)
        # This tag tells MLflow which artifacts are tables; its own log_table would append rows.
        tag = "mlflow.loggedArtifacts"
        entries = json.loads(self._client.get_run(self.run_id).data.tags.get(tag, "[]"))
        if (entry := {"path": path, "type": "table"}) not in entries:
            self._client.set_tag(self.run_id, tag, json.dumps([*entries, entry]), synchronous=True)

    def log_dict(self, values: Mapping[str, Any], path: str) -> None:
        plain = json.loads(mask(json.dumps(values)))  # YAML has no word for tuples
        self._client.log_dict(self.run_id, plain, path)

    def log_dataset(
        self, images: np.ndarray, labels: np.ndarray, name: str, sha256: str, context: str
    ) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        classes, counts = np.unique(labels, return_counts=True)
        profile = {"num_examples": len(images), "image_shape": list(images.shape[1:])}
        profile |= {"class_counts": dict(zip(map(str, classes), counts.tolist(), strict=True))}
        profile |= {"sha256": sha256}
        dataset = Dataset(
            name=name,
            digest=sha256[:MAX_DIGEST_CHARS],
            source_type="local",
            source=json.dumps({"uri": name}),
            schema=_dataset_schema(images, labels),
            profile=json.dumps(profile),
        )
        tag = InputTag("mlflow.data.context", context)
        self._client.log_inputs(self.run_id, [DatasetInput(dataset, [tag])])

    def log_model(
        self, folder: Path, image_shape: tuple[int, int, int], guidance: float = 1.0
    ) -> str | None:
        if not self._keeps_model:
            return None
        from mlflow.entities import LoggedModelOutput

        run = self._client.get_run(self.run_id)
        model = self._client.create_logged_model(
            run.info.experiment_id, "generator", source_run_id=self.run_id, params=run.data.params
        )
        with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings():
            # MLflow warns of one of its own type hints, and that there is no input example.
            warnings.filterwarnings("ignore", category=UserWarning, module=r"mlflow\.")
            try:
                _save_model(Path(scratch, "model"), folder, model, image_shape, guidance)
                self._client.log_model_artifacts(model.model_id, str(Path(scratch, "model")))
            except BaseException:
                self._client.finalize_logged_model(model.model_id, "FAILED")
                raise
        self._client.finalize_logged_model(model.model_id, "READY")
        self._client.log_outputs(self.run_id, [LoggedModelOutput(model.model_id, step=0)])
        return f"models:/{model.model_id}"

    def finish(self, status: Status = "FINISHED") -> None:
        if not self._finished:
            self._client.set_terminated(self.run_id, status)
            self._finished = True


# ------------------------------------------------------------------------------ parts of a record


def _json_value(value: Any) -> Any:
    value = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _dataset_schema(images: np.ndarray, labels: np.ndarray) -> str:
    from mlflow.data.schema import TensorDatasetSchema
    from mlflow.types import Schema, TensorSpec

    specs = [Schema([TensorSpec(a.dtype, (-1, *a.shape[1:]))]) for a in (images, labels)]
    return json.dumps(TensorDatasetSchema(features=specs[0], targets=specs[1]).to_dict())


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


# -------------------------------------------------------------------------------------- the store


@contextlib.contextmanager
def _first_contact(config: TrackingConfig, uri: str) -> "Iterator[MlflowClient]":
    """Yield a client; what the store refuses meanwhile is raised as one sentence, and soon."""
    _quiet_mlflow()
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    path = _sqlite_path(uri)
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


def _experiment_id(client: "MlflowClient", config: TrackingConfig, uri: str) -> str:
    """Return the experiment's id, creating it if it is new; a server places artifacts itself."""
    from mlflow.exceptions import MlflowException

    experiment = client.get_experiment_by_name(config.experiment)
    if experiment is None:
        here = tracking_root(config) / "artifacts"
        place = None if _sqlite_path(uri) is None else here.as_uri()
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
