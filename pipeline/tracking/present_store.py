"""The rule of the typist: a run's entries go to the store of the present settings, or nowhere.

Whoever types a command decides where data goes, by `tracking.uri` or the environment. The present
store gets the entries of a run that it knows. It gets those of another run if the user asks for a
new run in it, with `--anew`. The store that a run's record names is told to the user, no more.
"""

import shlex
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.config.tracking import MAX_RUN_NAME, TrackingConfig, sqlite_path, tracking_uri
from pipeline.files.paths import mask
from pipeline.runs.record import read_record, update_record
from pipeline.tracking.mlflow_session import (
    create_run,
    experiment_id,
    failed_if_not_begun,
    first_contact,
    in_store,
    stage_of,
)
from pipeline.tracking.mlflow_sink import MlflowSink
from pipeline.tracking.outbox import write_done
from spire_core.errors import RunError

if TYPE_CHECKING:
    from mlflow import MlflowClient


def sink_of(run_dir: Path, config: TrackingConfig, is_anew: bool = False) -> MlflowSink:
    """Return the sink of a run in the present store.

    RunError, before anything is sent or created, if that store does not know the run, or has
    deleted it. With `is_anew`, one that it does not know begins there as a new run, which gets all
    entries; the caller holds the run's lock. Raises as `check_store` does.
    """
    uri = tracking_uri(config)
    path = sqlite_path(uri)
    if path is not None and not path.is_file() and not is_anew:
        raise _not_there(read_record(run_dir), uri)
    with first_contact(uri) as client:
        record = read_record(run_dir)
        stage = stage_of(client, record["run_id"])
        if stage == "deleted":
            raise RunError(
                f"expected run {record['run_id']} in the store {mask(uri)}, got deleted: restore "
                f"it with {in_store(uri)} mlflow runs restore --run-id {record['run_id']}"
            )
        if stage == "none" and not is_anew:
            raise _not_there(record, uri)
        if stage == "none":
            _begin_anew(client, run_dir, record, config)
        return MlflowSink(client, read_record(run_dir)["run_id"], run_dir, is_new=stage == "none")


def _not_there(record: Mapping[str, Any], uri: str) -> RunError:
    """Return the error of a run that the present store does not know, with the words to paste."""
    began, here = record["uri"], mask(uri)
    advice = "--anew delivers all of it there as a new run"
    if record["kind"] == "sweep":  # with a word it would be another sweep
        advice = f"set MLFLOW_TRACKING_URI={shlex.quote(began)} to go on where it began"
    elif began != here:
        word = shlex.quote(f"tracking.uri={began}")
        advice = f"add {word} to go on where it began, or --anew to deliver all of it to this "
        advice += "store as a new run"
    return RunError(f"expected run {record['run_id']} in the store {here}, got none: {advice}")


def _begin_anew(
    client: "MlflowClient", run_dir: Path, record: Mapping[str, Any], config: TrackingConfig
) -> None:
    """Create a new run of a record's name and tags, and let the record name it."""
    uri = tracking_uri(config)
    place = experiment_id(client, replace(config, experiment=record["experiment"]), uri)
    info = create_run(client, place, record["run_name"][:MAX_RUN_NAME], record["tags"]).info
    with failed_if_not_begun(client, info.run_id):
        write_done(run_dir, 0, [], mask(uri))
        changes = {"run_id": info.run_id, "experiment_id": info.experiment_id, "uri": mask(uri)}
        update_record(run_dir, **changes)
