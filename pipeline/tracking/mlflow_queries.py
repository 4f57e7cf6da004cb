"""Queries of MLflow: the runs of a sweep, their histories and tables; artifacts for a sweep.

Here too, mlflow is imported only inside functions, and every call names its store.
"""

import json
import math
import re
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.config.tracking import TrackingConfig, sqlite_path, tracking_uri
from pipeline.tracking.mlflow_session import first_contact, stage_of
from spire_core.errors import RunError

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

KIND, SWEEP = "spire.kind", "sweep"  # tag and value of a sweep's parent run
PARENT = "mlflow.parentRunId"  # the tag of a nested run
PAGE_SIZE = 200  # runs in one answer of the store
MIN_ID_CHARS = 6
NUM_NAMED = 8  # existing runs in the message about a missing one
MLFLOWS_INFINITY = 1e300  # MLflow stores infinity as the largest float


@dataclass(frozen=True)
class TrackedRun:
    """One run in the store; `finals` holds the last value of each metric.

    `ended_ms` is None while it runs.
    """

    run_id: str
    name: str
    status: str  # FINISHED, FAILED, KILLED, RUNNING or SCHEDULED
    params: Mapping[str, str]
    tags: Mapping[str, str]
    finals: Mapping[str, float]
    started_ms: int
    ended_ms: int | None = None
    experiment_id: str = ""

    @property
    def is_sweep(self) -> bool:
        return self.tags.get(KIND) == SWEEP


def sweep_runs(
    config: TrackingConfig, words: Sequence[str]
) -> tuple[TrackedRun | None, list[TrackedRun]]:
    """Return a sweep's parent run and its children, oldest first; or None and the runs named.

    A word is `last` (the latest sweep), a sweep's name (the latest of that name), an id or its
    first 6 characters or more, or a run's name. Several words give the runs of all of them.
    RunError if there is no such run or a name fits several; ClusterError if the store does not
    answer.
    """
    uri = readable_uri(config)
    with first_contact(uri) as client:
        store = _Store(client, _experiments(client))
        matches = [store.expand(word) for word in words]
    runs = {run.run_id: run for _, several in matches for run in several}
    parent = matches[0][0] if len(matches) == 1 else None
    return parent, sorted(runs.values(), key=lambda run: (run.started_ms, run.run_id))


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
    with first_contact(readable_uri(config)) as client:
        listed = client.list_artifacts(run_id, str(Path(path).parent))
        if path not in {file.path for file in listed}:
            return None
        with tempfile.TemporaryDirectory() as folder:
            return Path(client.download_artifacts(run_id, path, folder)).read_bytes()


def artifact_text(config: TrackingConfig, run_id: str, path: str) -> str | None:
    """Return the text of a run's artifact, as `artifact_bytes` does."""
    data = artifact_bytes(config, run_id, path)
    return None if data is None else data.decode()


def table_rows(config: TrackingConfig, run_id: str, path: str) -> list[dict[str, Any]]:
    """Return the rows of a run's table, the artifact `path`; empty if the run has none."""
    text = artifact_text(config, run_id, path)
    if text is None:
        return []
    table = json.loads(text)
    return [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]


def is_known(value: float | None) -> bool:
    """Return whether a metric's value is a number: neither absent nor NaN nor infinite."""
    return value is not None and math.isfinite(value) and abs(value) < MLFLOWS_INFINITY


def adopt(config: TrackingConfig, run_ids: Iterable[str], parent_run_id: str) -> None:
    """Nest runs below a sweep's run, except deleted ones; raises as `check_store` does."""
    with first_contact(tracking_uri(config)) as client:
        nested = {run.run_id for run in _Store(client, _experiments(client)).below(parent_run_id)}
        for run_id in run_ids:
            if run_id not in nested and stage_of(client, run_id) == "active":
                client.set_tag(run_id, PARENT, parent_run_id)


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


def _experiments(client: "MlflowClient") -> list[str]:
    """Return the ids of all experiments: a sweep has one of its own."""
    ids, token = [], None
    while True:
        page = client.search_experiments(page_token=token)
        ids += [experiment.experiment_id for experiment in page]
        token = page.token
        if not token:
            return ids


@dataclass(frozen=True)
class _Store:
    """Searches the runs of a store's experiments."""

    client: "MlflowClient"
    experiment_ids: list[str]

    def search(self, text: str = "", limit: int | None = None) -> list[TrackedRun]:
        """Return the runs that fit a filter, latest first, from as many pages as needed."""
        runs: list[TrackedRun] = []
        token = None
        while True:
            page = self.client.search_runs(
                self.experiment_ids,
                text,
                max_results=min(PAGE_SIZE, limit or PAGE_SIZE),
                order_by=["attributes.start_time DESC"],
                page_token=token,
            )
            runs += [_tracked(run) for run in page]
            token = page.token
            if not token or (limit is not None and len(runs) >= limit):
                return runs

    def below(self, parent_run_id: str) -> list[TrackedRun]:
        """Return a sweep's children."""
        return self.search(f"tags.`{PARENT}` = '{parent_run_id}'")

    def expand(self, word: str) -> tuple[TrackedRun | None, list[TrackedRun]]:
        """Return the sweep that a word names and its children, or None and the single run."""
        run = self.find(word)
        children = self.below(run.run_id)
        return (run, children) if children or run.is_sweep else (None, [run])

    def find(self, word: str) -> TrackedRun:
        """Return the one run that a word names; RunError if there is none, or several."""
        sweeps = self.search(f"tags.`{KIND}` = '{SWEEP}'")
        named = [run for run in sweeps if word in ("last", run.name)]
        if named:
            return named[0]
        fits: list[TrackedRun] = []
        if re.fullmatch(rf"[0-9a-f]{{{MIN_ID_CHARS},32}}", word):
            fits = self.search(f"attributes.run_id LIKE '{word}%'")
        quote = "'" if "'" not in word else '"'
        if not fits and word and quote not in word:
            fits = self.search(f"attributes.run_name = {quote}{word}{quote}")
        if len(fits) == 1:
            return fits[0]
        if word == "last" and not fits:
            advice = f"choose from {self._known(sweeps)}"
            raise RunError(f"expected a sweep for last, got a store without any: {advice}")
        what = f"which fits {len(fits)} runs" if fits else "which is none"
        raise RunError(
            f"expected a sweep's name or id, a run's name or id, or last, got {word!r}, {what}: "
            f"choose from {_listed(fits) or self._known(sweeps)}"
        )

    def _known(self, sweeps: Sequence[TrackedRun]) -> str:
        runs = self.search(limit=NUM_NAMED)
        lists = [
            f"the sweeps {_listed(sweeps)}" if sweeps else "",
            f"the runs {_listed(runs)}" if runs else "",
        ]
        return " and ".join(filter(None, lists)) or "another store, with tracking.uri=URI"


def _listed(runs: Sequence[TrackedRun]) -> str:
    return ", ".join(f"{run.run_id[:8]} ({run.name})" for run in runs[:NUM_NAMED])


def _tracked(run: "Run") -> TrackedRun:
    info, data = run.info, run.data
    return TrackedRun(
        info.run_id,
        info.run_name or info.run_id[:8],
        info.status,
        data.params,
        data.tags,
        data.metrics,
        info.start_time or 0,
        info.end_time,
        info.experiment_id,
    )
