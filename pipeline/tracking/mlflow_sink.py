"""The sink of the outbox: it writes each kind of entry into MLflow, and repeating that is safe.

Metrics carry the time of their entry, by which MLflow knows a point that it has; files have unique
names; and a model is known by the time of its entry.
"""

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from pipeline.files.paths import error_line, mask
from pipeline.runs.layout import ARTIFACTS
from pipeline.tracking.mlflow_model import log_model
from pipeline.tracking.outbox import Entry
from pipeline.tracking.relay import Refusal

if TYPE_CHECKING:
    from mlflow import MlflowClient

MAX_TAG = 8000  # characters of a tag's value, after which MLflow cuts it off
MAX_TABLES = 100  # that a tag has room for
# MLflow's word for a wrong name or value, and for a run that was deleted. Every other error may
# pass: it calls even a fault of its database a bad request, and a run unknown whose database is
# not the one that it will be again.
FINAL_CODE = "INVALID_PARAMETER_VALUE"
FINAL_STATUSES = (400, 413, 414, 415, 422)  # of a server that takes files


def preview_name(name: str) -> str:
    """Return the path of the preview of an image, which MLflow's UI shows first."""
    return f"{name.removesuffix('.png')}+compressed.webp"


class MlflowSink:
    """Writes the entries of one run into MLflow.

    Of a run that goes on MLflow may have points and images that are no longer in the outbox, since
    a power cut took its newest lines or a checkpoint brought back an older one. A step of a metric
    that MLflow had when this sink began, and an image of a step, is therefore not sent again.
    """

    def __init__(self, client: "MlflowClient", run_id: str, run_dir: Path) -> None:
        self._client, self._run_id, self._run_dir = client, run_id, run_dir
        self.address = mask(client.tracking_uri)
        self._steps: dict[str, set[int]] = {}  # of the metrics whose history was asked for

    @cached_property
    def _newest(self) -> dict[str, int]:
        """The newest step of each metric that MLflow had when this sink began."""
        metrics = self._client.get_run(self._run_id).to_proto().data.metrics
        return {metric.key: metric.step for metric in metrics}

    @cached_property
    def _images(self) -> set[str]:
        """The paths of the images that MLflow had when this sink began."""
        return {artifact.path for artifact in self._client.list_artifacts(self._run_id, "images")}

    def send(self, entries: Sequence[Entry]) -> None:
        """Write one entry, or several of metrics; Refusal if MLflow will never take it."""
        kind = entries[0]["kind"]
        try:
            getattr(self, f"_send_{kind}")(entries if kind == "metrics" else entries[0])
        except Exception as error:
            if _is_final(error):
                raise Refusal(error_line(error)) from error
            raise

    def _send_metrics(self, entries: Sequence[Entry]) -> None:
        from mlflow.entities import Metric

        points = [
            Metric(key, value, entry["time_ms"], entry["step"])
            for entry in entries
            for key, value in entry["metrics"].items()
            if not self._is_stored(key, entry["step"])
        ]
        self._client.log_batch(self._run_id, metrics=points, synchronous=True)

    def _is_stored(self, key: str, step: int) -> bool:
        """Return whether MLflow had a step of a metric when this sink began."""
        if step > self._newest.get(key, -1):
            return False
        if key not in self._steps:
            history = self._client.get_metric_history(self._run_id, key)
            self._steps[key] = {metric.step for metric in history}
        return step in self._steps[key]

    def _send_params(self, entry: Entry) -> None:
        from mlflow.entities import Param

        params = [Param(key, text) for key, text in entry["params"].items()]
        self._client.log_batch(self._run_id, params=params, synchronous=True)

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
        if any(path.startswith(head) and path not in files for path in self._images):
            return
        for file in sorted(files):
            self._upload(file)
        self._client.set_tag(self._run_id, "mlflow.loggedImages", "True")

    def _send_table(self, entry: Entry) -> None:
        self._upload(entry["file"])
        # This tag tells MLflow which artifacts are tables; its own log_table would append rows.
        tag, table = "mlflow.loggedArtifacts", {"path": entry["file"], "type": "table"}
        known = json.loads(self._client.get_run(self._run_id).data.tags.get(tag, "[]"))
        if table not in known:
            newest = [*known, table][-MAX_TABLES:]
            self._client.set_tag(self._run_id, tag, json.dumps(newest))

    def _send_dataset(self, entry: Entry) -> None:
        from mlflow.entities import Dataset, DatasetInput

        source, profile = json.dumps({"uri": entry["name"]}), json.dumps(entry["profile"])
        dataset = Dataset(entry["name"], entry["digest"], "local", source, profile=profile)
        self._client.log_inputs(self._run_id, [DatasetInput(dataset)])

    def _send_model(self, entry: Entry) -> None:
        folder = self._own(entry["folder"])
        if not (folder / "config.json").is_file():
            raise Refusal(f"expected a saved run in {folder}, got none")
        shape, name = tuple(entry["image_shape"]), str(entry["time_ms"])
        log_model(self._client, self._run_id, folder, shape, entry["guidance"], name)

    def _upload(self, file: str) -> None:
        path, place = self._own(file, ARTIFACTS), str(PurePosixPath(file).parent)
        if not path.is_file():
            raise Refusal(f"expected a file at {path}, got none")
        self._client.log_artifact(self._run_id, str(path), None if place == "." else place)

    def _own(self, name: str, below: str = "") -> Path:
        """Return a path inside the run's folder; Refusal for any other that an entry names."""
        folder = (self._run_dir / below).resolve()
        path = (folder / name).resolve()
        if not path.is_relative_to(folder):
            raise Refusal(f"expected a path inside {folder}, got {path}: nothing was read")
        return path


def _is_final(error: Exception) -> bool:
    """Return whether no time will change MLflow's answer."""
    from mlflow.exceptions import MlflowException
    from requests.exceptions import HTTPError

    if isinstance(error, MlflowException):
        return error.error_code == FINAL_CODE
    if isinstance(error, HTTPError) and error.response is not None:
        return error.response.status_code in FINAL_STATUSES
    return isinstance(error, Refusal)
