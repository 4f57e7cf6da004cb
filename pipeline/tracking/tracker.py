"""A run's record in MLflow: its parameters, metrics, images, tables and model.

`Tracker.start` begins a run, `Tracker.resume` goes on with one. Every entry goes into the run's
outbox (`outbox.py`), a file, and from there a relay (`relay.py`) sends it to MLflow: what goes on
between a run's beginning and its end needs no store that answers.
"""

import logging
import shutil
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

from pipeline.config.tracking import MAX_RUN_NAME, TrackingConfig, tracking_root, tracking_uri
from pipeline.files.paths import mask
from pipeline.runs.layout import RECORD
from pipeline.runs.record import Kind, make_run_dir, make_runs_folder, read_record
from pipeline.tracking.ends import Status, warn_of_waiting
from pipeline.tracking.mlflow_session import (
    create_run,
    experiment_id,
    failed_if_not_begun,
    first_contact,
    stage_of,
)
from pipeline.tracking.mlflow_sink import MAX_TAG, MlflowSink
from pipeline.tracking.origin import origin_tags
from pipeline.tracking.present_store import sink_of
from pipeline.tracking.relay import Sink
from pipeline.tracking.relay_thread import RelayThread
from pipeline.tracking.run_log import RunLog
from spire_core.errors import RunError

FINISH_WAIT_S, KILLED_WAIT_S = 30.0, 5.0  # for the store, when a run ends
_log = logging.getLogger(__name__)


def check_store(config: TrackingConfig) -> None:
    """Raise ClusterError or ConfigError, within seconds, unless the store answers."""
    if config.enabled:
        with first_contact(tracking_uri(config)) as client:
            client.search_experiments(max_results=1)


def is_deleted(run_dir: Path, config: TrackingConfig) -> bool:
    """Return whether a run was deleted: in its store or, of one that no store knows, its folder.

    Raises as `check_store` does.
    """
    stage = "none"
    if config.enabled:
        with first_contact(tracking_uri(config)) as client:
            stage = stage_of(client, run_dir.name)
    return stage == "deleted" or (stage == "none" and not (run_dir / RECORD).is_file())


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
            shutil.rmtree(tracking_root(config) / "runs" / run.info.run_id, ignore_errors=True)


class Tracker(RunLog):
    """The record of one run, open until `finish`; a `with` block ends it with the right status.

    `start` and `resume` return one, or a `NullTracker` if tracking is off.

    `run_id`: 32 hexadecimal digits; `run_dir`: the run's own folder on this machine, for
    checkpoints and other files; `uri`: the store's address without any password, None if there is
    no store.
    """

    def __init__(
        self,
        run_id: str,
        run_dir: Path,
        uri: str | None = None,
        sink: Sink | None = None,
        keeps_model: bool = False,
    ) -> None:
        super().__init__(run_dir, keeps_model)
        self.run_id, self.uri = run_id, None if uri is None else mask(uri)
        self._finished = False
        self._relay = None if sink is None else RelayThread(run_dir, sink, run_id)

    @staticmethod
    def start(
        config: TrackingConfig,
        run_name: str,
        tags: Mapping[str, str],
        parent_run_id: str | None = None,
        kind: Kind = "run",
    ) -> "Tracker":
        """Create a run (and its store and experiment, if they are new) and return its tracker.

        `config.run_name`, if set, replaces `run_name`. `parent_run_id` nests the run below a sweep,
        a run of the kind "sweep". `find_run` tells kinds apart. Longer names and tags than every
        store of MLflow takes are cut in the store.
        ConfigError if the settings cannot be used; ClusterError, within seconds, if the store
        does not answer or refuses. A run whose folder cannot be made ends as FAILED.
        """
        run_name = config.run_name or run_name
        make_runs_folder(config)
        if not config.enabled:
            run_id = uuid.uuid4().hex
            return NullTracker(run_id, make_run_dir(config, run_id, run_name, None, kind))
        uri = tracking_uri(config)
        with first_contact(uri) as client:
            given = origin_tags() | dict(tags)
            own = {key: mask(value)[:MAX_TAG] for key, value in given.items()}
            parent = {} if parent_run_id is None else {"mlflow.parentRunId": parent_run_id}
            place, name = experiment_id(client, config, uri), run_name[:MAX_RUN_NAME]
            info = create_run(client, place, name, own | parent).info
        run_id = info.run_id
        with failed_if_not_begun(client, run_id):
            run_dir = make_run_dir(config, run_id, run_name, uri, kind, info.experiment_id, own)
            sink = MlflowSink(client, run_id, run_dir, is_new=True)
            return Tracker(run_id, run_dir, uri, sink, config.log_model)

    @staticmethod
    def resume(config: TrackingConfig, run_dir: Path, is_anew: bool = False) -> "Tracker":
        """Return the tracker of an interrupted run, which continues its outbox.

        A step of a metric or image is logged once, so that rounds which are computed again leave no
        zigzag. Raises as `start` does, and as `sink_of`, which says what `is_anew` does.
        """
        record = read_record(run_dir)
        if not record["tracked"] or not config.enabled:
            return NullTracker(record["run_id"], run_dir)
        sink = sink_of(run_dir, config, is_anew)
        uri = tracking_uri(config)
        tracker = Tracker(read_record(run_dir)["run_id"], run_dir, uri, sink, config.log_model)
        tracker._append("status", status="RUNNING")
        return tracker

    def _notify(self) -> None:
        if self._relay is not None:
            self._relay.notify()

    def flush(self, timeout_s: float = FINISH_WAIT_S) -> bool:
        """Wait until the store has all entries; False if that takes longer."""
        return self._relay is None or self._relay.flush(timeout_s) == 0

    def finish(self, status: Status = "FINISHED") -> None:
        """End the run, and wait a little for the store; a second call does nothing.

        Entries that the store has not taken by then stay in the outbox, and a warning says so.
        """
        if self._finished:
            return
        self._finished = True
        self._append("status", status=status)
        self.leave(KILLED_WAIT_S if status == "KILLED" else FINISH_WAIT_S)

    def leave(self, wait_s: float = KILLED_WAIT_S) -> None:
        """Stop relaying, after `wait_s` at most, without giving the run a last status."""
        self._finished = True
        if self._relay is not None:
            warn_of_waiting(self.run_dir, self._relay.close(wait_s))

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


class NullTracker(Tracker):
    """Keeps the metrics of a run in its folder, and nothing else."""

    keeps_files = False

    def _append(self, kind: str, **payload: Any) -> None:
        """Keep nothing."""

    def _append_file(
        self, kind: str, file: str, write: Callable[[Path], object], **payload: Any
    ) -> None:
        """Write nothing."""
