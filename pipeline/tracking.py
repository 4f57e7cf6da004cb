"""Where a run's record goes: its parameters, metrics, images, tables and model, kept by MLflow.

Only this file, `mlflow_store.py`, `tracked_runs.py` (it reads) and the logged model's own code in
`generator_model.py` import mlflow, the first three inside functions, because importing it takes
more than a second. Every call names its store and its run and waits until the store has answered:
nothing is read from or left in MLflow's process-wide state.

`Tracker.start` begins a run, `Tracker.resume` goes on with one.
"""

import json
import logging
import math
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np

from pipeline.mlflow_store import experiment_id, first_contact, log_model
from pipeline.run_files import Points, append_points
from pipeline.runs import (
    Kind,
    TrackingConfig,
    make_run_dir,
    make_runs_folder,
    mask,
    read_record,
    tracking_uri,
)
from spire_core.errors import RunError

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from mlflow import MlflowClient

Status = Literal["FINISHED", "FAILED", "KILLED"]

MAX_PARAMS = 100  # MLflow's limits for one call of log_batch
MAX_METRICS = 1000
MAX_PARAM_CHARS = 6000  # MLflow cuts longer ones, with a warning
MAX_DIGEST_CHARS = 36
_log = logging.getLogger(__name__)


def check_store(config: TrackingConfig) -> None:
    """Raise ClusterError or ConfigError, within seconds, unless the store answers."""
    if config.enabled:
        with first_contact(config, tracking_uri(config)) as client:
            client.search_experiments(max_results=1)


def end_run(run_dir: Path, config: TrackingConfig, status: Status) -> None:
    """Give a run whose process is gone its last status, if the store still holds it as running."""
    record = read_record(run_dir)
    if not record["tracked"] or not config.enabled:
        return
    with first_contact(config, tracking_uri(config)) as client:
        if client.get_run(record["run_id"]).info.status == "RUNNING":
            client.set_terminated(record["run_id"], status)


class Tracker:
    """The record of one run, open until `finish`; a `with` block ends it with the right status.

    This class is the interface and records nothing: `start` and `resume` return an `MlflowTracker`,
    or a `NullTracker` if tracking is off. Each `log_*` returns when the store has answered, and
    raises what the store raises. Passwords inside URIs are masked in what is logged.

    `run_id`: 32 hexadecimal digits; `run_dir`: the run's own folder on this machine, for
    checkpoints and other files; `uri`: the store's without any password, None if nothing is
    recorded.
    """

    def __init__(self, run_id: str, run_dir: Path, uri: str | None = None) -> None:
        self.run_id, self.run_dir = run_id, run_dir
        self.uri = None if uri is None else mask(uri)
        self._finished = False

    @staticmethod
    def start(
        config: TrackingConfig,
        run_name: str,
        tags: Mapping[str, str],
        parent_run_id: str | None = None,
        kind: Kind = "run",
    ) -> "Tracker":
        """Create a run (and its store and experiment, if they are new) and return its tracker.

        `config.run_name`, if set, replaces `run_name`; `parent_run_id` nests the run below another,
        which is a "sweep" by its `kind`.
        ConfigError if the settings cannot be used; ClusterError, within seconds, if the store
        does not answer or refuses.
        """
        run_name = config.run_name or run_name
        make_runs_folder(config)
        if not config.enabled:
            run_id = uuid.uuid4().hex
            return NullTracker(run_id, make_run_dir(config, run_id, run_name, None, kind))
        uri = tracking_uri(config)
        with first_contact(config, uri) as client:
            given = {key: mask(value) for key, value in tags.items()}
            if parent_run_id is not None:
                given["mlflow.parentRunId"] = parent_run_id
            experiment = experiment_id(client, config, uri)
            run_id = client.create_run(experiment, tags=given, run_name=run_name).info.run_id
        run_dir = make_run_dir(config, run_id, run_name, uri, kind)
        return MlflowTracker(run_id, run_dir, uri, client, config.log_model)

    @staticmethod
    def resume(config: TrackingConfig, run_dir: Path) -> "Tracker":
        """Return the tracker of an interrupted run, marked as running again.

        A metric's or image's step that the run already holds is not logged a second time, so that
        rounds that are computed again leave no zigzag. Raises as `start` does, and RunError if the
        store does not know the run.
        """
        record = read_record(run_dir)
        if not record["tracked"] or not config.enabled:
            return NullTracker(record["run_id"], run_dir)
        uri = tracking_uri(config)
        with first_contact(config, uri) as client:
            tracker = MlflowTracker(record["run_id"], run_dir, uri, client, config.log_model)
            tracker.reopen()
        return tracker

    def log_params(self, flat: Mapping[str, object]) -> None:
        """Record settings as texts; another value under a name that has one is MLflow's error.

        A resumed run keeps the value that it was started with, and warns where the new one differs.
        """

    def log_tags(self, tags: Mapping[str, str]) -> None:
        """Record tags, replacing those of the same name."""

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Record numbers of one step.

        NaN is kept as NaN, and MLflow keeps an infinite value as the largest float; both are logged
        as a warning. The run's folder holds all numbers as well, in `metrics.jsonl`.
        """
        self.log_points([(step, metrics)])

    def log_points(self, points: Points) -> None:
        """Record numbers of many steps at once, as `log_metrics` does those of one."""
        append_points(self.run_dir, points)

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
        for chunk in _chunks(params, MAX_PARAMS):
            self._client.log_batch(self.run_id, params=chunk, synchronous=True)

    def log_tags(self, tags: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        new = [RunTag(key, mask(value)) for key, value in tags.items()]
        self._client.log_batch(self.run_id, tags=new, synchronous=True)

    def log_points(self, points: Points) -> None:
        from mlflow.entities import Metric

        super().log_points(points)
        now_ms = time.time_ns() // 1_000_000
        batch = []
        for step, metrics in points:
            odd = [f"{key}={value}" for key, value in metrics.items() if not math.isfinite(value)]
            if odd:
                _log.warning("metrics that are not finite at step %d: %s", step, ", ".join(odd))
            new = {k: float(v) for k, v in metrics.items() if (k, step) not in self._old_steps}
            batch += [Metric(key, value, now_ms, step) for key, value in new.items()]
        for chunk in _chunks(batch, MAX_METRICS):
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
        return log_model(self._client, self.run_id, folder, image_shape, guidance)

    def finish(self, status: Status = "FINISHED") -> None:
        if not self._finished:
            self._client.set_terminated(self.run_id, status)
            self._finished = True


def _chunks(items: list[Any], size: int) -> list[list[Any]]:
    return [items[i : i + size] for i in range(0, len(items), size)]


def _json_value(value: Any) -> Any:
    value = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _dataset_schema(images: np.ndarray, labels: np.ndarray) -> str:
    from mlflow.data.schema import TensorDatasetSchema
    from mlflow.types import Schema, TensorSpec

    specs = [Schema([TensorSpec(a.dtype, (-1, *a.shape[1:]))]) for a in (images, labels)]
    return json.dumps(TensorDatasetSchema(features=specs[0], targets=specs[1]).to_dict())
