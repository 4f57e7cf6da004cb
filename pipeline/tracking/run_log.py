"""The `log_*` methods of a run: each `log_*` returns as soon as the run's outbox has the entry."""

import logging
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.files.paths import mask
from pipeline.runs.layout import ARTIFACTS
from pipeline.tracking.artifacts import check_image, dict_text, image_name, table_text, write_image
from pipeline.tracking.outbox import Outbox, Points

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_DIGEST_CHARS = 36  # of MLflow's
EACH_ITS_OWN = -1.0  # the guidance of a model that leaves it to each client
_log = logging.getLogger(__name__)


class RunLog:
    """Appends a run's entries to its outbox; passwords inside URIs are masked.

    An entry that the store refuses later on is logged as an error and kept in the run's folder.
    `keeps_files`: whether anything but metrics is kept, so that pictures are worth drawing.
    """

    keeps_files = True

    def __init__(self, run_dir: Path, keeps_model: bool) -> None:
        self.run_dir, self._keeps_model = run_dir, keeps_model
        self._outbox = Outbox(run_dir)

    def _append(self, kind: str, **payload: Any) -> None:
        self._outbox.append(kind, **payload)
        self._notify()

    def _append_file(
        self, kind: str, file: str, write: Callable[[Path], object], **payload: Any
    ) -> None:
        path = self.run_dir / ARTIFACTS / file
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path)
        self._append(kind, file=file, **payload)

    def _notify(self) -> None:
        """Announce new entries to the relay, if there is one."""

    def log_params(self, flat: Mapping[str, object]) -> None:
        """Record settings as texts; a recorded one keeps its value, with a warning if they differ.

        A resumed run therefore keeps the settings with which it began.
        """
        texts = {key: mask(str(value)) for key, value in flat.items()}
        known = self._outbox.params
        for key in known.keys() & texts.keys():
            if texts.pop(key) != known[key]:
                text = "%s was %s when the run began, and stays so in its record"
                _log.warning(text, key, known[key])
        if texts:
            self._append("params", params=texts)

    def log_tags(self, tags: Mapping[str, str]) -> None:
        """Record tags, replacing those of the same name."""
        self._append("tags", tags={key: mask(value) for key, value in tags.items()})

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Record metrics of one step; a metric that the step already has keeps its value.

        NaN stays NaN, and MLflow stores infinity as the largest float; both are logged as a
        warning.
        """
        self.log_points([(step, metrics)])

    def log_points(self, points: Points) -> None:
        """Record metrics of many steps at once, as `log_metrics` does for one."""
        for step, metrics in points:
            odd = [f"{key}={value}" for key, value in metrics.items() if not math.isfinite(value)]
            if odd:
                _log.warning("metrics that are not finite at step %d: %s", step, ", ".join(odd))
        self._outbox.append_points(points)
        self._notify()

    def log_image(self, key: str, image: np.ndarray, step: int) -> None:
        """Record an image (H, W, C) uint8, C of 1, 3 or 4, as one step of the key's series.

        A step that already has an image keeps it. ValueError for any other array.
        """
        check_image(image)
        if not self._outbox.has("image", key, step):
            name = image_name(key, step)
            self._append_file("image", name, lambda p: write_image(p, image), key=key, step=step)

    def log_figure(self, figure: "Figure", path: str) -> None:
        """Record a matplotlib figure as the artifact `path`, such as `figures/kid.png`."""
        self._append_file("file", path, figure.savefig)

    def log_file(self, source: Path, path: str) -> None:
        """Record a copy of a file as the artifact `path`."""
        self._append_file("file", path, lambda p: shutil.copyfile(source, p))

    def log_table(self, path: str, columns: Mapping[str, Sequence[Any]]) -> None:
        """Record columns of one length as the table `path` (.json, as MLflow's), replacing it.

        A number that is not finite becomes null. ValueError if the columns' lengths differ.
        """
        text = table_text(columns)
        self._append_file("table", path, lambda p: p.write_text(text))

    def log_dict(self, values: Mapping[str, Any], path: str) -> None:
        """Record nested values as the artifact `path`, in YAML or JSON by its suffix."""
        text = dict_text(values, Path(path).suffix)
        self._append_file("file", path, lambda p: p.write_text(text))

    def log_dataset(
        self, images: np.ndarray, labels: np.ndarray, name: str, sha256: str, context: str
    ) -> None:
        """Record which data the run used: name, hash, shapes and class counts, but not the data.

        images (N, ...), labels (N,). `sha256` is that of both in hexadecimal; its first 36 digits
        become MLflow's digest. `context` names the use of the data, such as `pretrain`.
        """
        classes, counts = np.unique(labels, return_counts=True)
        profile = {"num_examples": len(images), "image_shape": list(images.shape[1:])}
        profile |= {"class_counts": dict(zip(map(str, classes), counts.tolist(), strict=True))}
        profile |= {"sha256": sha256}
        arrays = [(array.dtype.name, array.shape[1:]) for array in (images, labels)]
        digest = sha256[:MAX_DIGEST_CHARS]
        names = {"name": name, "digest": digest, "context": context}
        self._append("dataset", **names, profile=profile, arrays=arrays)

    def log_model(
        self, folder: Path, image_shape: tuple[int, int, int], guidance: float = 1.0
    ) -> None:
        """Record the run as a model that draws images as a client, if `config.log_model` says so.

        `folder`, inside the run's own, is the one that `SavedRun.load` reads. It is uploaded as it
        is when the store takes the entry, and recorded once. `image_shape` is (C, H, W); `guidance`
        is the default of the model's parameter. The model carries this project's code, and loads
        where that is not installed. Its address is `models:/` and the id in the run's outputs.
        """
        if self._keeps_model:
            place = str(folder.resolve().relative_to(self.run_dir.resolve()))
            shape = list(image_shape)
            if not self._outbox.has("model", place, 0):  # by a process that ended soon afterwards
                self._append("model", folder=place, image_shape=shape, guidance=guidance)
