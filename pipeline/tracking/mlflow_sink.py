"""The idempotent sink of the outbox: it writes each kind of entry into MLflow.

To send an entry twice changes nothing. Metrics carry the time of their entry, files have unique
names, and a model is known by the time of its entry. Here too, mlflow is imported only inside
functions.
"""

import json
import os
from collections.abc import Sequence
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.runs.layout import ARTIFACTS
from pipeline.tracking.artifacts import preview_name
from pipeline.tracking.mlflow_model import log_model
from pipeline.tracking.outbox import Entry
from pipeline.tracking.relay import MAX_METRICS, Refusal

if TYPE_CHECKING:
    from mlflow import MlflowClient

MAX_PARAMS = 100  # MLflow's limit for one call
FINAL_CODES = {  # of MLflow's answers, those that no time changes
    "ALREADY_EXISTS",
    "BAD_REQUEST",
    "INVALID_PARAMETER_VALUE",
    "INVALID_STATE",
    "NOT_IMPLEMENTED",
    "RESOURCE_ALREADY_EXISTS",
    "RESOURCE_DOES_NOT_EXIST",
}
BUSY = "QueuePool limit"  # a busy database, which MLflow calls a bad request
RACED = ("IntegrityError", "INSERT INTO datasets")  # another run has just written the same dataset
FINAL_STATUSES = {400, 404, 405, 409, 411, 413, 414, 415, 422}  # of a server that takes files
MALFORMED = (Refusal, KeyError, TypeError, AttributeError, ValueError)  # the entry is at fault


class MlflowSink:
    """Writes the entries of one run into MLflow.

    The position is what MLflow has of the run: it is read before the first entry, and again after
    a failure. `is_new`: the run has just been created, so that MLflow has nothing of it yet.
    """

    def __init__(
        self, client: "MlflowClient", run_id: str, run_dir: Path, is_new: bool = False
    ) -> None:
        self._client, self._run_id, self._run_dir = client, run_id, run_dir
        self._has_position = is_new
        self._points: set[tuple[str, int]] = set()  # (metric, step) that MLflow has
        self._images: set[str] = set()  # paths of images that MLflow has

    def send(self, entries: Sequence[Entry]) -> None:
        """Write one entry, or several of metrics; raises what MLflow raises, and Refusal."""
        if not self._has_position:
            self._read_position()
        if entries[0]["kind"] == "metrics":
            self._send_metrics(entries)
        else:
            getattr(self, f"_send_{entries[0]['kind']}")(entries[0])

    def forget_position(self) -> None:
        """Read the position again before the next entry."""
        self._has_position = False

    def is_retryable(self, error: Exception) -> bool:
        """Return whether an entry may succeed later; any error that is not known to be final.

        Retryable are a connection, a server, a database or an artifact store that fails, whatever
        its client raises, a password or a right that is missing, and a full disk.
        """
        from mlflow.exceptions import MlflowException
        from requests.exceptions import HTTPError

        if isinstance(error, MlflowException):
            is_passing = BUSY in str(error) or _has_raced(error)
            return is_passing or error.error_code not in FINAL_CODES
        if isinstance(error, HTTPError) and error.response is not None:
            return error.response.status_code not in FINAL_STATUSES
        return isinstance(error, OSError) or not isinstance(error, MALFORMED)

    def _read_position(self) -> None:
        """Note which metrics and images MLflow has."""
        try:
            for key in self._client.get_run(self._run_id).data.metrics:
                history = self._client.get_metric_history(self._run_id, key)
                self._points |= {(key, metric.step) for metric in history}
            self._images = {a.path for a in self._client.list_artifacts(self._run_id, "images")}
        except Exception as error:  # a final one, of a deleted run, comes back with each entry
            if self.is_retryable(error):
                raise
        self._has_position = True

    def _send_metrics(self, entries: Sequence[Entry]) -> None:
        from mlflow.entities import Metric

        batch = [
            Metric(key, value, entry["time_ms"], entry["step"])
            for entry in entries
            for key, value in entry["metrics"].items()
            if (key, entry["step"]) not in self._points
        ]
        for chunk in _chunks(batch, MAX_METRICS):
            self._client.log_batch(self._run_id, metrics=chunk, synchronous=True)

    def _send_params(self, entry: Entry) -> None:
        from mlflow.entities import Param

        params = [Param(key, text) for key, text in entry["params"].items()]
        for chunk in _chunks(params, MAX_PARAMS):
            self._client.log_batch(self._run_id, params=chunk, synchronous=True)

    def _send_tags(self, entry: Entry) -> None:
        from mlflow.entities import RunTag

        tags = [RunTag(key, text) for key, text in entry["tags"].items()]
        self._client.log_batch(self._run_id, tags=tags, synchronous=True)

    def _send_status(self, entry: Entry) -> None:
        if entry["status"] == "RUNNING":
            self._client.update_run(self._run_id, status="RUNNING")
        else:
            self._client.set_terminated(self._run_id, entry["status"], entry["time_ms"])

    def _send_file(self, entry: Entry) -> None:
        self._upload(entry["file"])

    def _send_image(self, entry: Entry) -> None:
        files = {entry["file"], preview_name(entry["file"])}
        head = entry["file"].partition("+timestamp+")[0] + "+timestamp+"
        if {path for path in self._images if path.startswith(head)} - files:
            return  # MLflow has another image of this step, whose entry a power cut took
        for file in sorted(files):
            self._upload(file)
        self._client.set_tag(self._run_id, "mlflow.loggedImages", "True", synchronous=True)

    def _send_table(self, entry: Entry) -> None:
        self._upload(entry["file"])
        # This tag tells MLflow which artifacts are tables; its own log_table would append rows.
        tag, table = "mlflow.loggedArtifacts", {"path": entry["file"], "type": "table"}
        known = json.loads(self._client.get_run(self._run_id).data.tags.get(tag, "[]"))
        if table not in known:
            self._client.set_tag(self._run_id, tag, json.dumps([*known, table]), synchronous=True)

    def _send_dataset(self, entry: Entry) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag
        from mlflow.exceptions import MlflowException

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
        try:
            self._client.log_inputs(self._run_id, inputs)
        except MlflowException as error:
            if not _has_raced(error):
                raise
            self._client.log_inputs(self._run_id, inputs)  # the other run's row is there now

    def _send_model(self, entry: Entry) -> None:
        folder = self._own(entry["folder"])
        if not folder.is_dir():
            raise Refusal(f"expected a saved run in {folder}, got no such folder")
        shape, name = tuple(entry["image_shape"]), str(entry["time_ms"])
        log_model(self._client, self._run_id, folder, shape, entry["guidance"], name)

    def _upload(self, file: str) -> None:
        path, place = self._own(file, ARTIFACTS), str(PurePosixPath(file).parent)
        if not path.is_file():
            raise Refusal(f"expected a file at {path}, got none")
        self._client.log_artifact(self._run_id, str(path), None if place == "." else place)

    def _own(self, name: str, below: str = "") -> Path:
        """Return a path inside the run's folder; Refusal if it, or a link below it, leads outside.

        An outbox that came from a stranger may name any file of the user who relays it.
        """
        folder = self._run_dir.resolve() / below
        path = folder / name
        for found in chain([path], path.rglob("*")):
            if not Path(os.path.realpath(found)).is_relative_to(folder):
                raise Refusal(f"expected a path inside {folder}, got {found}: nothing was read")
        return path


def _has_raced(error: Exception) -> bool:
    """Return whether another run has written the same dataset at the same time, and won."""
    return all(word in str(error) for word in RACED)


def _chunks(items: list[Any], size: int) -> list[list[Any]]:
    return [items[i : i + size] for i in range(0, len(items), size)]


def _dataset_schema(arrays: Sequence[tuple[str, Sequence[int]]]) -> str:
    from mlflow.data.schema import TensorDatasetSchema
    from mlflow.types import Schema, TensorSpec

    specs = [Schema([TensorSpec(np.dtype(kind), (-1, *shape))]) for kind, shape in arrays]
    return json.dumps(TensorDatasetSchema(features=specs[0], targets=specs[1]).to_dict())
