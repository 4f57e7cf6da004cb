"""A run's record in MLflow: its parameters, metrics, images, tables and model.

`Tracker.start` begins a run, `Tracker.resume` goes on with one. Every entry goes into the run's
outbox (`outbox.py`), a file, and from there a thread (`relay.py`) sends it to MLflow: what goes on
between a run's beginning and its end needs no store that answers.
"""

import json
import logging
import math
import shutil
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
from PIL import Image

from pipeline.config.load import write_yaml
from pipeline.config.tracking import TrackingConfig, tracking_root, tracking_uri
from pipeline.files.paths import mask
from pipeline.runs.layout import ARTIFACTS, RUNS
from pipeline.runs.record import Kind, make_run_dir, read_record
from pipeline.tracking.mlflow_session import (
    PARENT,
    create_run,
    experiment_id,
    first_contact,
    origin_tags,
    sink_of,
    stage_of,
)
from pipeline.tracking.mlflow_sink import MAX_TAG, MlflowSink, preview_name
from pipeline.tracking.outbox import ENDED, Outbox, Points, now_ms, num_waiting
from pipeline.tracking.relay import RelayThread, Sink, relay_all
from spire_core.errors import RunError

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

Status = Literal["FINISHED", "FAILED", "KILLED"]
FINISH_WAIT_S, KILLED_WAIT_S = 30.0, 5.0  # for the store, when a run ends
EACH_ITS_OWN = -1.0  # the guidance of a model that leaves it to each client
_log = logging.getLogger(__name__)


class Tracker:
    """The record of one run, open until `finish`; a `with` block ends it with the right status.

    Each `log_*` returns as soon as the run's outbox has the entry. Passwords inside URIs are
    masked. An entry that the store refuses later on is logged as an error and kept in the run's
    folder.

    `run_id`: 32 hexadecimal digits; `run_dir`: the run's own folder on this machine, for
    checkpoints and other files; `uri`: the store's address without any password, None if there is
    no store. Without a `sink` the entries wait in the outbox. `keeps_all`: False where tracking is
    off. Then metrics alone are kept, and no picture is worth drawing.
    """

    def __init__(
        self,
        run_id: str,
        run_dir: Path,
        uri: str | None = None,
        sink: Sink | None = None,
        keeps_model: bool = False,
        keeps_all: bool = True,
    ) -> None:
        self.run_id, self.run_dir, self.uri = run_id, run_dir, None if uri is None else mask(uri)
        self.keeps_all = keeps_all
        self._keeps_model, self._is_finished = keeps_model, False
        self._outbox = Outbox(run_dir)
        self._relay = None if sink is None else RelayThread(run_dir, sink)

    @staticmethod
    def start(
        config: TrackingConfig,
        run_name: str,
        tags: Mapping[str, str],
        parent_run_id: str | None = None,
        kind: Kind = "run",
        is_named: bool = False,
    ) -> "Tracker":
        """Create a run (and its store and experiment, if they are new) and return its tracker.

        `config.run_name`, if set, replaces `run_name`. `is_named`: so the run's folder is called,
        and not by its id. `parent_run_id` nests the run below a sweep, a run of the kind "sweep".
        `find_run` tells kinds apart. Longer names and tags than every store of MLflow takes are cut
        in the store.
        ConfigError if the settings cannot be used; ClusterError, within seconds, if the store
        does not answer or refuses.
        """
        run_name = config.run_name or run_name
        (tracking_root(config) / RUNS).mkdir(parents=True, exist_ok=True)  # before the run is known
        if not config.enabled:
            run_id = uuid.uuid4().hex
            run_dir = make_run_dir(config, run_id, run_name, None, kind, is_named=is_named)
            return Tracker(run_id, run_dir, keeps_all=False)
        uri = tracking_uri(config)
        with first_contact(uri) as client:
            given = origin_tags() | dict(tags)
            own = {key: mask(value)[:MAX_TAG] for key, value in given.items()}
            parent = {} if parent_run_id is None else {PARENT: parent_run_id}
            place = experiment_id(client, config, uri)
            run_id = create_run(client, place, run_name, own | parent)
        run_dir = make_run_dir(config, run_id, run_name, uri, kind, place, own, is_named)
        sink = MlflowSink(client, run_id, run_dir)
        return Tracker(run_id, run_dir, uri, sink, config.log_model)

    @staticmethod
    def resume(config: TrackingConfig, run_dir: Path, is_anew: bool = False) -> "Tracker":
        """Return the tracker of an interrupted run, which continues its outbox.

        A step of a metric or image is logged once, so that rounds which are computed again leave no
        zigzag. Raises as `start` does, and as `sink_of`, which says what `is_anew` does.
        """
        record = read_record(run_dir)
        if not record["tracked"] or not config.enabled:
            return Tracker(record["run_id"], run_dir, keeps_all=False)
        sink, uri = sink_of(run_dir, config, is_anew), tracking_uri(config)
        tracker = Tracker(read_record(run_dir)["run_id"], run_dir, uri, sink, config.log_model)
        tracker._append("status", status="RUNNING")
        return tracker

    # --- entries ----------------------------------------------------------------------------------

    def log_params(self, flat: Mapping[str, object]) -> None:
        """Record settings as texts, at most 100; MLflow refuses another value of a recorded one."""
        self._append("params", params={key: mask(str(value)) for key, value in flat.items()})

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

    def log_image(self, key: str, image: np.ndarray, step: int) -> None:
        """Record an image (H, W, C) uint8, C of 1, 3 or 4, as one step of the key's series.

        A step that already has an image keeps it.
        """
        if not self._outbox.has("image", key, step):
            # MLflow's UI reads key and step from the name.
            name = f"images/{key.replace('/', '~')}+step+{step}+timestamp+{now_ms()}"
            name += f"+{uuid.uuid4()}.png"
            self._append_file("image", name, lambda p: _write_image(p, image), key=key, step=step)

    def log_figure(self, figure: "Figure", path: str) -> None:
        """Record a matplotlib figure as the artifact `path`, such as `figures/kid.png`."""
        self._append_file("file", path, figure.savefig)

    def log_picture(self, picture: np.ndarray, path: str) -> None:
        """Record a picture (H, W, 3) of uint8 as the artifact `path`, a PNG."""
        self._append_file("file", path, Image.fromarray(picture).save)

    def log_file(self, source: Path, path: str) -> None:
        """Record a copy of a file as the artifact `path`."""
        self._append_file("file", path, lambda p: shutil.copyfile(source, p))

    def log_table(self, path: str, table: "pd.DataFrame") -> None:
        """Record a table as the artifact `path` (.json, as MLflow's), replacing it.

        A number that is not finite becomes null.
        """
        rows = [[*row] for row in table.itertuples(index=False)]
        text = json.dumps(finite_values({"columns": [*table], "data": rows}))
        self._append_file("table", path, lambda p: p.write_text(text))

    def log_dict(self, values: Mapping[str, Any], path: str) -> None:
        """Record nested values, without secrets, as the artifact `path`: YAML, or JSON if .json."""
        plain = json.loads(mask(json.dumps(values)))  # YAML has no word for tuples
        if path.endswith(".json"):
            text = json.dumps(plain, indent=2)
        else:
            text = write_yaml(plain, indent=2, default_flow_style=False) + "\n"
        self._append_file("file", path, lambda p: p.write_text(text))

    def log_dataset(self, name: str, sha256: str, num_examples: int) -> None:
        """Record which data the run used, but not the data; the hash's start is MLflow's digest."""
        profile = {"num_examples": num_examples, "sha256": sha256}
        self._append("dataset", name=name, digest=sha256[:36], profile=profile)

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
            if not self._outbox.has("model", place, 0):  # by a process that ended soon afterwards
                shape = list(image_shape)
                self._append("model", folder=place, image_shape=shape, guidance=guidance)

    def _append(self, kind: str, **payload: Any) -> None:
        if self.keeps_all:
            self._outbox.append(kind, **payload)

    def _append_file(
        self, kind: str, file: str, write: Callable[[Path], object], **payload: Any
    ) -> None:
        if self.keeps_all:
            path = self.run_dir / ARTIFACTS / file
            path.parent.mkdir(parents=True, exist_ok=True)
            write(path)
            self._append(kind, file=file, **payload)

    # --- the end ----------------------------------------------------------------------------------

    def finish(self, status: Status = "FINISHED") -> None:
        """End the run, and wait a little for the store; a second call does nothing.

        Entries that the store has not taken by then stay in the outbox, and a warning says so.
        """
        if self._is_finished:
            return
        self._is_finished = True
        self._append("status", status=status)
        self.leave(KILLED_WAIT_S if status == "KILLED" else FINISH_WAIT_S)

    def leave(self, wait_s: float = KILLED_WAIT_S) -> None:
        """Stop relaying, after `wait_s` at most, without giving the run a last status."""
        self._is_finished = True
        if self._relay is not None:
            _warn_of_waiting(self.run_dir, self._relay.close(wait_s))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.finish("FINISHED")
            return
        is_stopped = issubclass(kind, KeyboardInterrupt | SystemExit)
        try:
            self.finish("KILLED" if is_stopped else "FAILED")
        except (OSError, RunError) as error:  # must not hide the error that ended the run
            _log.warning("the end of run %s is not recorded: %s", self.run_id, error)


def _write_image(path: Path, image: np.ndarray) -> None:
    """Write an image (H, W, C) uint8, and its preview beside it."""
    from mlflow.tracking.multimedia import compress_image_size, convert_to_pil_image

    picture = convert_to_pil_image(image)
    picture.save(path)
    compress_image_size(picture).save(path.with_name(preview_name(path.name)))


def finite_values(value: Any) -> Any:
    """Return nested values as JSON can hold them: None for NaN and infinity."""
    text = json.dumps(value, default=np.generic.item)
    return json.loads(text, parse_constant=lambda _: None)


# --- the end of a run whose process is gone -------------------------------------------------------


def has_ended(run_dir: Path) -> bool:
    """Return whether a run was given its last status."""
    return Outbox(run_dir).status in ENDED


def note_end(run_dir: Path, config: TrackingConfig, status: Status) -> None:
    """Write a run's last status into its outbox, unless it has one.

    FINISHED replaces the status of a process that was stopped at its end.
    """
    if not _is_tracked(run_dir, config):
        return
    outbox = Outbox(run_dir)
    if outbox.status not in (("FINISHED",) if status == "FINISHED" else ENDED):
        outbox.append("status", status=status)


def relay_rest(run_dir: Path, config: TrackingConfig) -> None:
    """Relay what waits in a run's outbox; raises as `sink_of` does."""
    if _is_tracked(run_dir, config) and num_waiting(run_dir):
        relay_all(run_dir, sink_of(run_dir, config))
        _warn_of_waiting(run_dir, num_waiting(run_dir))


def _is_tracked(run_dir: Path, config: TrackingConfig) -> bool:
    return config.enabled and read_record(run_dir)["tracked"]


def _warn_of_waiting(run_dir: Path, num_entries: int) -> None:
    """Say how what waits in a run's outbox is delivered, if anything does."""
    if num_entries:
        text = "%d entries of run %s wait for its store: `spire sync` delivers them when it answers"
        _log.warning(text, num_entries, run_dir.name)


# --- runs in the store ----------------------------------------------------------------------------


def check_store(config: TrackingConfig) -> None:
    """Raise ClusterError or ConfigError, within seconds, unless the store answers."""
    if config.enabled:
        with first_contact(tracking_uri(config)) as client:
            client.search_experiments(max_results=1)


def is_deleted(run_dir: Path, config: TrackingConfig) -> bool:
    """Return whether a run was deleted in its store; raises as `check_store` does."""
    if not config.enabled:
        return False
    with first_contact(tracking_uri(config)) as client:
        return stage_of(client, read_record(run_dir)["run_id"]) == "deleted"


def drop_runs(config: TrackingConfig, tags: Mapping[str, str]) -> None:
    """Delete the runs that have all of these tags, in the store and on the disk, but finished ones.

    They are the remains of a process that was killed too early for its run to be resumed. A
    finished one has all of its results in the store, though its record cannot be read any more.
    """
    if not config.enabled:
        return
    uri = tracking_uri(config)
    tagged = [f"tags.`{key}` = '{value}'" for key, value in tags.items()]
    wanted = " and ".join([*tagged, "attributes.status != 'FINISHED'"])
    with first_contact(uri) as client:
        for run in client.search_runs([experiment_id(client, config, uri)], wanted):
            client.delete_run(run.info.run_id)
            shutil.rmtree(tracking_root(config) / RUNS / run.info.run_id, ignore_errors=True)
