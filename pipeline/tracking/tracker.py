"""A run's record: its parameters, metrics, images, tables and model, told once and kept by MLflow.

`Tracker.start` begins a run, `Tracker.resume` goes on with one. Everything that a run tells goes
into its outbox (`outbox.py`), a file, and from there to MLflow by a thread (`delivery.py`,
`mlflow_delivery.py`): a store that is slow or away for a while neither stops a run nor loses
anything of it. Only these two calls and `check_store` need a store that answers.
"""

import logging
import shutil
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from pipeline.config.tracking import TrackingConfig, tracking_root, tracking_uri
from pipeline.files.masking import mask
from pipeline.runs.layout import RECORD
from pipeline.runs.ownership import Begun, begun_here, check_addresses, name_address, note_begun
from pipeline.runs.record import Kind, make_run_dir, make_runs_folder, read_record
from pipeline.tracking.mlflow_session import (
    artifact_addresses,
    check_run,
    experiment_id,
    first_contact,
    stage_of,
)
from pipeline.tracking.mlflow_sink import MlflowStore
from pipeline.tracking.outbox import ENDED, Outbox, num_waiting
from pipeline.tracking.relay import Delivery, Store, deliver_all
from pipeline.tracking.run_log import RunLog
from spire_core.errors import ClusterError, RunError

Status = Literal["FINISHED", "FAILED", "KILLED"]

FINISH_WAIT_S, KILLED_WAIT_S = 30.0, 5.0  # for what the store has not taken when a run ends
_log = logging.getLogger(__name__)


def check_store(config: TrackingConfig) -> None:
    """Raise ClusterError or ConfigError, within seconds, unless the store answers."""
    if config.enabled:
        with first_contact(config, tracking_uri(config)) as client:
            client.search_experiments(max_results=1)


def is_deleted(run_dir: Path, config: TrackingConfig) -> bool:
    """Return whether a run was deleted: in its store or, of one that no store knows, its folder.

    Raises as `check_store` does.
    """
    stage = "none"
    if config.enabled:
        with first_contact(config, tracking_uri(config)) as client:
            stage = stage_of(client, run_dir.name)
    return stage == "deleted" or (stage == "none" and not (run_dir / RECORD).is_file())


def has_ended(run_dir: Path) -> bool:
    """Return whether a run was given its last status."""
    return Outbox(run_dir).status in ENDED


def end_run(run_dir: Path, config: TrackingConfig, status: Status) -> None:
    """Give a run whose process is gone its last status, unless it has one, and deliver its rest."""
    record = read_record(run_dir)
    if not record["tracked"] or not config.enabled:
        return
    outbox = Outbox(run_dir)
    if outbox.status not in ENDED:
        outbox.add("status", status=status)
    if num_waiting(run_dir):
        try:
            with first_contact(config, tracking_uri(config)) as client:
                store = MlflowStore(client, record["run_id"], run_dir)
            deliver_all(run_dir, store)
        except ClusterError as error:
            _log.warning("the end of run %s is not delivered: %s", record["run_id"], error)
        _warn_of_waiting(run_dir, num_waiting(run_dir))


def drop_runs(config: TrackingConfig, tags: Mapping[str, str]) -> None:
    """Delete the runs that have all of these tags, in the store and on the disk.

    For what a process left that was killed before its run could be gone on with.
    """
    if not config.enabled:
        return
    uri = tracking_uri(config)
    wanted = " and ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())
    with first_contact(config, uri) as client:
        for run in client.search_runs([experiment_id(client, config, uri)], wanted):
            client.delete_run(run.info.run_id)
            shutil.rmtree(tracking_root(config) / "runs" / run.info.run_id, ignore_errors=True)


def _warn_of_waiting(run_dir: Path, num_entries: int) -> None:
    if num_entries:
        _log.warning(
            "%d entries of run %s wait for its store: `spire sync %s` delivers them when it "
            "answers, and `spire sync` those of all runs",
            num_entries,
            run_dir.name,
            run_dir,
        )


class Tracker(RunLog):
    """The record of one run, open until `finish`; a `with` block ends it with the right status.

    `start` and `resume` return one, or a `NullTracker` if tracking is off.

    `run_id`: 32 hexadecimal digits; `run_dir`: the run's own folder on this machine, for
    checkpoints and other files; `uri`: the store's without any password, None if nothing is
    delivered.
    """

    def __init__(
        self,
        run_id: str,
        run_dir: Path,
        uri: str | None = None,
        store: Store | None = None,
        keeps_model: bool = False,
    ) -> None:
        super().__init__(run_dir, keeps_model)
        self.run_id, self.uri = run_id, None if uri is None else mask(uri)
        self._finished = False
        self._delivery = None if store is None else Delivery(run_dir, store, run_id)

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
            note_begun(tracking_root(config), run_id, Begun())
            return NullTracker(run_id, make_run_dir(config, run_id, run_name, None, kind))
        uri = tracking_uri(config)
        with first_contact(config, uri) as client:
            given = {key: mask(value) for key, value in tags.items()}
            if parent_run_id is not None:
                given["mlflow.parentRunId"] = parent_run_id
            experiment = experiment_id(client, config, uri)
            info = client.create_run(experiment, tags=given, run_name=run_name).info
        run_id, begun = info.run_id, Begun(uri, [info.artifact_uri or ""])
        note_begun(tracking_root(config), run_id, begun)
        run_dir = make_run_dir(config, run_id, run_name, uri, kind)
        store = MlflowStore(client, run_id, run_dir, is_new=True)
        return Tracker(run_id, run_dir, uri, store, config.log_model)

    @staticmethod
    def resume(config: TrackingConfig, run_dir: Path) -> "Tracker":
        """Return the tracker of an interrupted run, which goes on with its outbox.

        A metric's or image's step that the run already holds is not logged a second time, so that
        rounds that are computed again leave no zigzag. Raises as `start` does, and RunError if the
        store does not know the run, or has its artifacts where they may not go. Each address that
        something of a foreign run goes to is named before.
        """
        record, root = read_record(run_dir), tracking_root(config)
        run_id, begun = record["run_id"], begun_here(run_dir, root)
        if begun is None and config.storage is not None:
            name_address(run_dir, "its checkpoints go to", config.storage)
        if not record["tracked"] or not config.enabled:
            return NullTracker(run_id, run_dir)
        uri = tracking_uri(config)
        if begun is None:
            name_address(run_dir, "its store is", uri)
        with first_contact(config, uri) as client:
            run = check_run(client, record, uri)
            addresses = artifact_addresses(client, run, begun is not None)
        check_addresses(addresses, begun, run_dir, root)
        store = MlflowStore(client, run_id, run_dir)
        tracker = Tracker(run_id, run_dir, uri, store, config.log_model)
        tracker._tell("status", status="RUNNING")
        return tracker

    def _told(self) -> None:
        if self._delivery is not None:
            self._delivery.wake()

    def flush(self, timeout_s: float = FINISH_WAIT_S) -> bool:
        """Wait until the store has all that was logged; False if that takes longer."""
        return self._delivery is None or self._delivery.flush(timeout_s) == 0

    def finish(self, status: Status = "FINISHED") -> None:
        """End the run, and wait a little for the store; a second call does nothing.

        What the store has not taken by then stays in the outbox, and a warning says so.
        """
        if self._finished:
            return
        self._finished = True
        self._tell("status", status=status)
        self.leave(KILLED_WAIT_S if status == "KILLED" else FINISH_WAIT_S)

    def leave(self, wait_s: float = KILLED_WAIT_S) -> None:
        """Deliver for so long, and let the run go on without this process."""
        self._finished = True
        if self._delivery is not None:
            _warn_of_waiting(self.run_dir, self._delivery.close(wait_s))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is None:
            self.finish("FINISHED")
            return
        stopped = issubclass(kind, KeyboardInterrupt | SystemExit)
        try:
            self.finish("KILLED" if stopped else "FAILED")
        except (
            OSError,
            RunError,
        ) as lost:  # what ended the run matters more
            _log.warning("the end of run %s is not recorded: %s", self.run_id, lost)


class NullTracker(Tracker):
    """Keeps the numbers of a run in its folder, and nothing else."""

    keeps_files = False

    def _tell(self, kind: str, **said: Any) -> None:
        """Keep nothing."""

    def _tell_file(
        self, kind: str, file: str, write: Callable[[Path], object], **said: Any
    ) -> None:
        """Write nothing."""
