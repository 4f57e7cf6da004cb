"""Sweeps and runs are found in a real MLflow store by every name, page after page."""

import re
import shutil
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient

from pipeline.config.tracking import TrackingConfig, tracking_uri
from pipeline.tracking import mlflow_queries as tracked_runs
from pipeline.tracking.mlflow_queries import (
    NOTE,
    NOTE_CHARS,
    TrackedRun,
    attach,
    histories,
    sweep_runs,
)
from pipeline.tracking.tracker import Tracker
from spire_core.errors import ClusterError, RunError


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, new_database: Path) -> TrackingConfig:
    """Two sweeps called `twice`, one of 5 runs; an empty sweep; and three runs of no sweep."""
    root = tmp_path_factory.mktemp("reading")
    shutil.copy(new_database, root)
    config = TrackingConfig(root=str(root), uri=f"sqlite:///{root}/mlflow.db")
    start(config, "a", {"method": "spire"}).finish()
    start(config, "it's", {}).finish()
    start(config, "same", {}).finish()
    start(config, "same", {}).finish()
    for num_runs in (1, 5):
        parent = start(config, "twice", {"spire.kind": "sweep"})
        for i in range(num_runs):
            start(config, f"child {i}", {"seed": str(i)}, parent.run_id).finish()
        parent.finish()
    start(config, "empty", {"spire.kind": "sweep"}).finish()
    return config


def start(
    config: TrackingConfig, name: str, tags: dict[str, str], parent: str | None = None
) -> Tracker:
    time.sleep(0.002)  # the order is that of the milliseconds
    return Tracker.start(config, name, tags, parent)


def names(found: tuple[TrackedRun | None, list[TrackedRun]]) -> tuple[str | None, list[str]]:
    parent, runs = found
    return parent and parent.name, [run.name for run in runs]


FIVE = [f"child {i}" for i in range(5)]


def test_a_sweep_is_found_by_name_and_by_id(store: TrackingConfig) -> None:
    parent, runs = sweep_runs(store, ["twice"])
    assert parent is not None
    assert names((parent, runs)) == ("twice", FIVE)
    assert [run.tags["seed"] for run in runs] == list("01234")
    assert {run.status for run in runs} == {"FINISHED"}
    for word in (parent.run_id, parent.run_id[:6]):
        assert sweep_runs(store, [word]) == (parent, runs)


def test_last_is_the_latest_sweep(store: TrackingConfig) -> None:
    assert names(sweep_runs(store, ["last"])) == ("empty", [])


def test_runs_are_found_by_name_and_by_id(store: TrackingConfig) -> None:
    assert names(sweep_runs(store, ["a"])) == (None, ["a"])
    assert names(sweep_runs(store, ["it's"])) == (None, ["it's"])
    (run,) = sweep_runs(store, ["a"])[1]
    assert names(sweep_runs(store, [run.run_id[:8], "it's", "a"])) == (None, ["a", "it's"])
    assert names(sweep_runs(store, ["twice", "a"])) == (None, ["a", *FIVE])


@pytest.mark.parametrize("size", [1, 2, 5])
def test_pages_are_put_together(
    store: TrackingConfig, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr(tracked_runs, "PAGE_SIZE", size)
    assert names(sweep_runs(store, ["twice"])) == ("twice", FIVE)


@pytest.mark.parametrize(
    "word", ["no", "", "abcdef", "0" * 32, 'it\'s "both"', "x' or 'a'='a", "%"]
)
def test_an_unknown_name_says_what_there_is(store: TrackingConfig, word: str) -> None:
    with pytest.raises(RunError) as raised:
        sweep_runs(store, [word])
    message = str(raised.value)
    assert f"got {word!r}, which is none: choose from " in message
    assert re.search(r"from \w{8} \(empty\), \w{8} \(twice\), \w{8} \(twice\), ", message)


def test_last_without_any_sweep_names_the_runs(tmp_path: Path, new_database: Path) -> None:
    shutil.copy(new_database, tmp_path)
    config = TrackingConfig(root=str(tmp_path), uri=f"sqlite:///{tmp_path}/mlflow.db")
    with pytest.raises(RunError, match=r"got 'last', which is none: choose from another store"):
        sweep_runs(config, ["last"])
    start(config, "alone", {}).finish()
    with pytest.raises(RunError, match=r"which is none: choose from \w{8} \(alone\)$"):
        sweep_runs(config, ["last"])


def test_a_run_name_that_fits_several_is_refused(store: TrackingConfig) -> None:
    with pytest.raises(RunError, match=r"'same', which fits 2 runs: .*\(same\), \w{8} \(same\)$"):
        sweep_runs(store, ["same"])


def test_a_database_that_is_not_there_is_named_and_not_created(tmp_path: Path) -> None:
    config = TrackingConfig(root=str(tmp_path), uri=f"sqlite:///{tmp_path}/mlflow.db")
    with pytest.raises(RunError, match=r"expected runs in the store .*, got no such file: "):
        sweep_runs(config, ["last"])
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_does_not_answer_is_one_sentence() -> None:
    with pytest.raises(ClusterError, match=r"expected an MLflow store at http://127\.0\.0\.1:9"):
        sweep_runs(TrackingConfig(uri="http://127.0.0.1:9"), ["last"])


def test_histories_are_in_order_without_repeats_and_without_what_is_no_number(
    store: TrackingConfig,
) -> None:
    with Tracker.start(store, "curve", {}) as tracker:
        for step, value in ((2, 5.0), (0, 1.0), (1, float("nan")), (3, float("inf"))):
            tracker.log_metrics({"a/b": value}, step)
    now_ms = time.time_ns() // 1_000_000 + 2
    MlflowClient(tracking_uri(store)).log_metric(tracker.run_id, "a/b", 2.0, now_ms, 2)
    found = histories(store, tracker.run_id, ["a/b", "absent"])
    assert found == {"a/b": [(0, 1.0), (2, 2.0)], "absent": []}


def test_files_are_attached_in_their_folders(store: TrackingConfig, tmp_path: Path) -> None:
    (tmp_path / "figures").mkdir()
    files = [tmp_path / "report.md", tmp_path / "figures" / "a.png"]
    for file in (*files, tmp_path / "private.txt"):
        file.write_text(file.name)
    with Tracker.start(store, "parent", {}) as tracker:
        attach(store, tracker.run_id, tmp_path, files, "**parent**")
    client = MlflowClient(tracking_uri(store))
    listed = client.list_artifacts(tracker.run_id, "report")
    assert sorted(a.path for a in listed) == ["report/figures", "report/report.md"]
    (figure,) = client.list_artifacts(tracker.run_id, "report/figures")
    assert figure.path == "report/figures/a.png"


def test_a_report_that_cannot_be_attached_says_where_it_lies(
    store: TrackingConfig, tmp_path: Path
) -> None:
    (tmp_path / "report.md").write_text("")
    with pytest.raises(ClusterError, match=f"to attach .* is complete, in {tmp_path}"):
        attach(store, "f" * 32, tmp_path, [tmp_path / "report.md"], "")


def test_a_description_is_replaced_unless_somebody_wrote_it(
    store: TrackingConfig, tmp_path: Path
) -> None:
    client = MlflowClient(tracking_uri(store))
    with Tracker.start(store, "described", {}) as tracker:
        run_id = tracker.run_id
    long = "**described**\n" + "a line\n" * 2000
    for note in ("**described**\nfirst", long):
        attach(store, run_id, tmp_path, [], note)
        assert note.startswith(client.get_run(run_id).data.tags[NOTE])
    assert NOTE_CHARS - 10 < len(client.get_run(run_id).data.tags[NOTE]) <= NOTE_CHARS
    client.set_tag(run_id, NOTE, "my own words")
    attach(store, run_id, tmp_path, [], long)
    assert client.get_run(run_id).data.tags[NOTE] == "my own words"
