"""The idempotent sink of the outbox: it writes each kind of entry into MLflow.

To send an entry twice changes nothing, nor does it to repeat one of its requests. Metrics carry the
time of their entry, files have unique names, and a model is known by the time of its entry. Here
too, mlflow is imported only inside functions.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from pipeline.files.paths import mask
from pipeline.runs.layout import ARTIFACTS
from pipeline.tracking.artifacts import preview_name
from pipeline.tracking.mlflow_errors import UNKNOWN, is_retryable, patiently
from pipeline.tracking.mlflow_model import log_model
from pipeline.tracking.mlflow_session import run_of
from pipeline.tracking.mlflow_settings import time_for
from pipeline.tracking.outbox import ENDED, Entry
from pipeline.tracking.relay import MAX_METRICS, Refusal, UnknownRunError

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric

MAX_TAG = 8000  # characters of a tag's value, after which MLflow cuts it off
MAX_PARAMS = 100  # MLflow's limit for one call
STATUSES = ("RUNNING", *ENDED)
T = TypeVar("T")
INT64 = range(-(1 << 63), 1 << 63)


class MlflowSink:
    """Writes the entries of one run into MLflow.

    A metric or image that MLflow has is not sent again. The sink asks for the newest step of each
    metric, at the start if the run is not new, and after a failure, when it is unknown whether the
    points arrived. Only a metric with an earlier point to send is asked for its history; answers
    are kept. `is_new`: the run has just been created, so that MLflow has nothing of it yet.
    """

    def __init__(
        self, client: "MlflowClient", run_id: str, run_dir: Path, is_new: bool = False
    ) -> None:
        self._client, self._run_id, self._run_dir = client, run_id, run_dir
        self.address = mask(client.tracking_uri)
        self._steps: dict[str, set[int]] = {}  # of the metrics whose history is known
        self._newest: dict[str, int] | None = {} if is_new else None  # step; None: not asked yet
        self._images: set[str] | None = set() if is_new else None  # paths; None: not asked yet
        self._model_files: set[str] = set()  # sent so far, of a model that is incomplete

    def send(self, entries: Sequence[Entry]) -> None:
        """Write one entry, or several of metrics; raises what MLflow raises, and Refusal.

        UnknownRunError if the store does not know the run at all. It knows one that was deleted.
        """
        from mlflow.exceptions import MlflowException

        for entry in entries:
            check_entry(entry)
        kind = entries[0]["kind"]
        try:
            getattr(self, f"_send_{kind}")(entries if kind == "metrics" else entries[0])
        except MlflowException as error:
            if error.error_code != UNKNOWN or run_of(self._client, self._run_id) is not None:
                raise
            self._newest, self._images, self._steps = None, None, {}
            raise UnknownRunError(str(error)) from error

    def is_retryable(self, error: Exception) -> bool:
        """Return whether an entry may succeed later."""
        return is_retryable(error)

    def _send_metrics(self, entries: Sequence[Entry]) -> None:
        from mlflow.entities import Metric

        points = [
            Metric(key, value, entry["time_ms"], entry["step"])
            for entry in entries
            for key, value in entry["metrics"].items()
        ]
        for chunk in _chunks(points, MAX_METRICS):
            patiently(partial(self._send_points, chunk))

    def _send_points(self, points: "Sequence[Metric]") -> None:
        new = [point for point in points if not self._is_stored(point.key, point.step)]
        try:
            if new:
                self._client.log_batch(self._run_id, metrics=new, synchronous=True)
        except Exception:
            self._newest = None
            names = {point.key for point in new}
            self._steps = {key: self._steps[key] for key in self._steps.keys() - names}
            raise

    def _is_stored(self, key: str, step: int) -> bool:
        """Return whether MLflow had a step of a metric when it was asked last."""
        if self._newest is None:
            run = self._answer(lambda: self._client.get_run(self._run_id))
            metrics = () if run is None else run.to_proto().data.metrics
            self._newest = {metric.key: metric.step for metric in metrics}
        if key not in self._newest or step > self._newest[key]:
            return False
        if key not in self._steps:
            history = self._answer(partial(self._client.get_metric_history, self._run_id, key))
            self._steps[key] = {metric.step for metric in history or ()}
        return step in self._steps[key]

    def _answer(self, request: Callable[[], T]) -> T | None:
        """Return an answer; None for a final error, which writing will raise again."""
        try:
            return patiently(request)
        except Exception as error:
            if is_retryable(error):
                raise
            return None

    def _send_params(self, entry: Entry) -> None:
        from mlflow.entities import Param

        params = [Param(key, text) for key, text in entry["params"].items()]
        for chunk in _chunks(params, MAX_PARAMS):
            patiently(partial(self._client.log_batch, self._run_id, params=chunk, synchronous=True))

    def _send_tags(self, entry: Entry) -> None:
        from mlflow.entities import RunTag

        tags = [RunTag(key, text) for key, text in entry["tags"].items()]
        patiently(partial(self._client.log_batch, self._run_id, tags=tags, synchronous=True))

    def _send_status(self, entry: Entry) -> None:
        if entry["status"] == "RUNNING":
            patiently(partial(self._client.update_run, self._run_id, status="RUNNING"))
        else:
            end = self._run_id, entry["status"], entry["time_ms"]
            patiently(partial(self._client.set_terminated, *end))

    def _send_file(self, entry: Entry) -> None:
        self._upload(entry["file"])

    def _send_image(self, entry: Entry) -> None:
        if self._images is None:
            listed = self._answer(lambda: self._client.list_artifacts(self._run_id, "images"))
            self._images = {artifact.path for artifact in listed or ()}
        files = {entry["file"], preview_name(entry["file"])}
        head = entry["file"].partition("+timestamp+")[0] + "+timestamp+"
        if {path for path in self._images if path.startswith(head)} - files:
            return  # MLflow has another image of this step, whose entry a power cut took
        for file in sorted(files):
            self._upload(file)
        self._set_tag("mlflow.loggedImages", "True")

    def _send_table(self, entry: Entry) -> None:
        self._upload(entry["file"])
        # This tag tells MLflow which artifacts are tables; its own log_table would append rows.
        tag, table = "mlflow.loggedArtifacts", {"path": entry["file"], "type": "table"}
        run = patiently(lambda: self._client.get_run(self._run_id))
        try:
            known = json.loads(run.data.tags.get(tag, "[]"))
        except ValueError:  # MLflow has cut it off
            known = []
        if table not in known:
            self._set_tag(tag, _newest_of([*known, table]))

    def _set_tag(self, key: str, text: str) -> None:
        patiently(partial(self._client.set_tag, self._run_id, key, text, synchronous=True))

    def _send_dataset(self, entry: Entry) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        dataset = Dataset(
            name=entry["name"],
            digest=entry["digest"],
            source_type="local",
            source=json.dumps({"uri": entry["name"]}),
            schema=_dataset_schema(entry["arrays"]),
            profile=json.dumps(entry["profile"]),
        )
        tag = InputTag("mlflow.data.context", entry["context"])
        inputs = [DatasetInput(dataset, [tag])]
        patiently(partial(self._client.log_inputs, self._run_id, inputs))  # also past a race

    def _send_model(self, entry: Entry) -> None:
        folder = self._own(entry["folder"])
        if not folder.is_dir():
            raise Refusal(f"expected a saved run in {folder}, got no such folder")
        shape, name = tuple(entry["image_shape"]), str(entry["time_ms"])
        sent = self._model_files
        log_model(self._client, self._run_id, folder, shape, entry["guidance"], name, sent)
        self._model_files = set()

    def _upload(self, file: str) -> None:
        path, place = self._own(file, ARTIFACTS), str(PurePosixPath(file).parent)
        if not path.is_file():
            raise Refusal(f"expected a file at {path}, got none")
        to = None if place == "." else place
        with time_for(path):
            patiently(partial(self._client.log_artifact, self._run_id, str(path), to))

    def _own(self, name: str, below: str = "") -> Path:
        """Return a path inside the run's folder; Refusal for any other that an entry names."""
        folder = (self._run_dir / below).resolve()
        path = (folder / name).resolve()
        if not path.is_relative_to(folder):
            raise Refusal(f"expected a path inside {folder}, got {path}: nothing was read")
        return path


def check_entry(entry: Entry) -> None:
    """Raise Refusal for an entry that no store can hold, whatever it answers to it."""
    if "status" in entry and entry["status"] not in STATUSES:
        raise Refusal(f"expected a status among {', '.join(STATUSES)}, got {entry['status']!r:.50}")
    for name in ("time_ms", "step"):
        if isinstance(number := entry.get(name), int) and number not in INT64:
            raise Refusal(f"expected 64 bits for {name}, got more")
    try:
        json.dumps(entry, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise Refusal(f"expected text, got half a character ({error.reason})") from error


def _newest_of(tables: Sequence[Mapping[str, str]]) -> str:
    """Return the newest tables as the text of a tag, as many as MLflow does not cut off."""
    sizes = [len(json.dumps(table)) + 2 for table in tables]
    kept = 0
    while kept < len(tables) and sum(sizes[len(sizes) - kept - 1 :]) <= MAX_TAG:
        kept += 1
    return json.dumps(tables[len(tables) - kept :])


def _chunks(items: list[Any], size: int) -> list[list[Any]]:
    return [items[i : i + size] for i in range(0, len(items), size)]


def _dataset_schema(arrays: Sequence[tuple[str, Sequence[int]]]) -> str:
    from mlflow.data.schema import TensorDatasetSchema
    from mlflow.types import Schema, TensorSpec

    specs = [Schema([TensorSpec(np.dtype(kind), (-1, *shape))]) for kind, shape in arrays]
    return json.dumps(TensorDatasetSchema(features=specs[0], targets=specs[1]).to_dict())
