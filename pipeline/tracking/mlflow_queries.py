"""What is read back from MLflow, and what is added to a run that has ended."""

import json
import math
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.config.tracking import TrackingConfig, sqlite_path, tracking_uri
from pipeline.tracking.mlflow_session import PARENT, first_contact
from spire_core.errors import RunError

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

KIND, SWEEP = "spire.kind", "sweep"  # tag and value of a sweep's parent run
NOTE = "mlflow.note.content"  # MLflow's tag of a description
NOTE_CHARS = 5000  # that every version of MLflow takes
MAX_FOUND = 50_000  # experiments or runs in one answer of the store; MLflow's limit
ID_CHARS = 6  # of an id that names a run, at least
NUM_NAMED = 8  # existing runs in the message about a missing one
MLFLOWS_INFINITY = 1e300  # MLflow stores infinity as the largest float


def sweep_runs(config: TrackingConfig, words: Sequence[str]) -> "tuple[Run | None, list[Run]]":
    """Return a sweep's parent run and its children, oldest first; or None and the runs named.

    A word is `last` (the latest sweep), a sweep's name (the latest of that name), an id or its
    first 6 characters or more, or a run's name. Several words give the runs of all of them.
    RunError if there is no such run or a name fits several; ClusterError if the store does not
    answer.
    """
    parent, runs = None, dict[str, "Run"]()
    with first_contact(readable_uri(config)) as client:
        for word in words:
            run = _find(client, word)
            below = _search(client, f"tags.`{PARENT}` = '{run.info.run_id}'")
            parent = run if below or run.data.tags.get(KIND) == SWEEP else None
            runs |= {run.info.run_id: run for run in (below if parent is not None else [run])}
    ordered = sorted(runs.values(), key=lambda run: (run.info.start_time, run.info.run_id))
    return (parent if len(words) == 1 else None), ordered


def _find(client: "MlflowClient", word: str) -> "Run":
    """Return the one run that a word names; RunError if there is none, or several."""
    sweeps = _search(client, f"tags.`{KIND}` = '{SWEEP}'")
    for run in sweeps:
        if word in ("last", run.info.run_name):
            return run
    runs = _search(client)
    fits = [run for run in runs if len(word) >= ID_CHARS and run.info.run_id.startswith(word)]
    fits = fits or [run for run in runs if run.info.run_name == word]
    if len(fits) == 1:
        return fits[0]
    none = "and there is no sweep" if word == "last" else "which is none"
    what = f"which fits {len(fits)} runs" if fits else none
    there = [run.info for run in fits or [*sweeps[:NUM_NAMED], *runs[:NUM_NAMED]]]
    known = ", ".join(dict.fromkeys(f"{run.run_id[:8]} ({run.run_name})" for run in there))
    raise RunError(
        f"expected a sweep's name or id, a run's name or id, or last, got {word!r}, {what}: "
        f"choose from {known or 'another store, with tracking.uri=URI'}"
    )


def _search(client: "MlflowClient", text: str = "") -> "list[Run]":
    """Return the runs of all experiments that fit a filter, latest first."""
    ids = [one.experiment_id for one in client.search_experiments(max_results=MAX_FOUND)]
    order = ["attributes.start_time DESC"]
    return client.search_runs(ids, text, max_results=MAX_FOUND, order_by=order)


def histories(
    config: TrackingConfig, run_id: str, keys: Iterable[str]
) -> dict[str, list[tuple[int, float]]]:
    """Return the (step, value) pairs of each metric in the order of steps, empty if it has none.

    If a step has several values the latest counts. Values that are not finite are left out.
    """
    with first_contact(readable_uri(config)) as client:
        logged = {key: client.get_metric_history(run_id, key) for key in keys}
    curves = {}
    for key, metrics in logged.items():
        steps = {m.step: m.value for m in sorted(metrics, key=lambda m: m.timestamp)}
        curves[key] = [(step, steps[step]) for step in sorted(steps) if is_known(steps[step])]
    return curves


def artifact_bytes(config: TrackingConfig, run_id: str, path: str) -> bytes | None:
    """Return a run's artifact, None if it has none such.

    ClusterError if the store does not answer.
    """
    with first_contact(readable_uri(config)) as client, tempfile.TemporaryDirectory() as folder:
        if path in {file.path for file in client.list_artifacts(run_id, str(Path(path).parent))}:
            return Path(client.download_artifacts(run_id, path, folder)).read_bytes()
    return None


def table_rows(config: TrackingConfig, run_id: str, path: str) -> list[dict[str, Any]]:
    """Return the rows of a run's table, the artifact `path`; empty if the run has none."""
    table = json.loads(artifact_bytes(config, run_id, path) or '{"data": []}')
    return [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]


def is_known(value: float | None) -> bool:
    """Return whether a metric's value is a number: neither absent nor NaN nor infinite."""
    return value is not None and math.isfinite(value) and abs(value) < MLFLOWS_INFINITY


def readable_uri(config: TrackingConfig) -> str:
    """Return the store's URI; RunError if it is a database that does not exist."""
    uri = tracking_uri(config)
    path = sqlite_path(uri)
    if path is not None and not path.is_file():
        raise RunError(
            f"expected runs in the store {uri}, got no such file: name the store with "
            "tracking.root=FOLDER or tracking.uri=URI"
        )
    return uri


def attach(
    config: TrackingConfig, run_id: str, folder: Path, files: Iterable[Path], note: str
) -> None:
    """Record these files of a folder as the run's artifacts below `report/`, and describe the run.

    The description replaces one that begins with the same line, and none that somebody wrote.
    """
    with first_contact(readable_uri(config)) as client:
        for file in files:
            place = Path("report", file.relative_to(folder).parent)
            client.log_artifact(run_id, str(file), place.as_posix())
        written = client.get_run(run_id).data.tags.get(NOTE, "")
        if not written or written.splitlines()[0] == note.splitlines()[0]:
            client.set_tag(run_id, NOTE, note[:NOTE_CHARS])
