"""A trial whose run was deleted, was killed at its very end, or has a store that is away."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from pipeline.config.load import load_config
from pipeline.experiment import run
from pipeline.runs.layout import NOISE_KEY, RESULT
from pipeline.runs.record import load_result, run_lock
from pipeline.tracking.tracker import Tracker
from spire_core.errors import BusyError, StoreError
from sweeps.execution.ledger import Ledger
from sweeps.execution.trial import TrialTask, run_trial
from sweeps.execution.trial_record import Status, TrialRecord

SMALL = ("resources.pool=local", "federation.num_rounds=2", "eval.every=1", "adapt.epochs=1")
SMALL += ("eval.num_images=8", "eval.num_loss_images=8", "diffusion.sample_steps=2")
SMALL += ("model.width=8", "tracking.log_model=false")
PRIVATE = ("adapt.num_images=8", "adapt.group_size=1", "privacy.adapt.epsilon=4")
PRIVATE += ("privacy.adapt.steps=2", "privacy.adapt.draws=2")


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs draw none here, where nobody looks at them."""
    monkeypatch.setattr(Tracker, "log_figure", lambda *_: None)


def task_of(folder: Path, mnist_root: Path, uri: str, *overrides: str) -> TrialTask:
    places = (f"data.root={mnist_root}", f"tracking.root={folder}", f"tracking.uri={uri}")
    config = load_config("smoke", [*SMALL, *places, *overrides])
    with Ledger(folder / "study").joined():
        return TrialTask("t", config, "smoke", {}, str(folder / "study"), None, None, {})


def interrupt(metrics: dict[str, float]) -> None:
    raise KeyboardInterrupt


def begun_by(task: TrialTask) -> TrialRecord:
    """Begin a trial, interrupt it at its first report, and return what is known of it."""
    with pytest.raises(KeyboardInterrupt):
        run_trial(task, interrupt)
    record = Ledger(Path(task.folder)).read("t")
    assert record is not None
    return record


def test_one_whose_run_was_deleted_in_the_store_begins_anew(
    tmp_path: Path, mnist_root: Path, new_database: Path
) -> None:
    shutil.copy(new_database, tmp_path)
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    task, ledger = task_of(tmp_path, mnist_root, uri), Ledger(tmp_path / "study")
    begun = begun_by(task)
    assert begun.run_id is not None
    MlflowClient(uri).delete_run(begun.run_id)
    reports: list[dict[str, float]] = []
    run_trial(task, reports.append)
    again = ledger.read("t")
    assert again is not None
    assert (again.status, again.error) == ("finished", None)
    assert again.run_id != begun.run_id
    assert MlflowClient(uri).get_run(again.run_id or "").info.status == "FINISHED"


def test_one_that_goes_on_records_what_an_uninterrupted_one_does(
    tmp_path: Path, mnist_root: Path, new_database: Path
) -> None:
    shutil.copy(new_database, tmp_path)
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    task = task_of(tmp_path, mnist_root, uri)
    begun_by(task)
    run_trial(task, lambda _: None)
    ended = Ledger(tmp_path / "study").read("t")
    assert ended is not None
    assert ended.result is not None
    assert ended.result["preset"] == "smoke"
    note = MlflowClient(uri).get_run(ended.run_id or "").data.tags["mlflow.note.content"]
    assert "spire run smoke " in note


@pytest.mark.parametrize("lacks_its_status", [True, False])
def test_one_that_was_killed_right_at_its_end_has_finished(
    lacks_its_status: bool,
    tmp_path: Path,
    mnist_root: Path,
    new_database: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its result is there and its key is gone: it neither fails nor adapts once more."""
    shutil.copy(new_database, tmp_path)
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    task = task_of(tmp_path, mnist_root, uri, *PRIVATE)
    ledger, drop = Ledger(tmp_path / "study"), run.drop_noise_key

    def drop_and_die(run_dir: Path) -> None:
        drop(run_dir)
        raise KeyboardInterrupt

    def die(*_: Any, **changes: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        if lacks_its_status:
            patched.setattr(run, "drop_noise_key", drop_and_die)
        else:
            patched.setattr(Ledger, "update", die)
        with pytest.raises(KeyboardInterrupt):
            run_trial(task, lambda _: None)
    killed = ledger.read("t")
    assert killed is not None
    assert killed.status == "running"
    run_dir = Path(killed.run_dir or "")
    if not lacks_its_status:
        (run_dir / NOISE_KEY).write_bytes(b"left behind")
    reports: list[dict[str, float]] = []
    run_trial(task, reports.append)
    ended = ledger.read("t")
    assert ended is not None
    assert (ended.status, ended.error, ended.run_dir) == ("finished", None, killed.run_dir)
    assert ended.result == load_result(run_dir)
    assert len(reports) == 1
    assert not (run_dir / NOISE_KEY).exists()
    assert MlflowClient(uri).get_run(run_dir.name).info.status == "FINISHED"


def test_one_that_only_its_store_keeps_from_beginning_is_unfinished(
    tmp_path: Path, mnist_root: Path
) -> None:
    task, ledger = task_of(tmp_path, mnist_root, "http://127.0.0.1:9"), Ledger(tmp_path / "study")
    with pytest.raises(StoreError, match=r"expected an MLflow store at http://127\.0\.0\.1:9"):
        run_trial(task, interrupt)
    entry = ledger.read("t")
    assert entry is not None
    assert (entry.status, entry.run_dir) == ("running", None)
    assert (entry.error or "").startswith("expected an MLflow store at http://127.0.0.1:9")


def test_one_whose_run_somebody_else_resumes_is_unfinished(
    tmp_path: Path, mnist_root: Path
) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    task, ledger = task_of(tmp_path, mnist_root, uri), Ledger(tmp_path / "study")
    begun = begun_by(task)
    with run_lock(Path(begun.run_dir or "")), pytest.raises(BusyError, match="nobody at work on"):
        run_trial(task, lambda _: None)
    entry = ledger.read("t")
    assert entry is not None
    assert (entry.status, entry.run_dir) == ("running", begun.run_dir)


def test_one_whose_result_is_damaged_fails_and_keeps_its_key(
    tmp_path: Path, mnist_root: Path
) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    task, ledger = task_of(tmp_path, mnist_root, uri, *PRIVATE), Ledger(tmp_path / "study")
    run_dir = Path(begun_by(task).run_dir or "")
    (run_dir / RESULT).write_text("{")
    ledger.reopen(["t"])
    run_trial(task, lambda _: None)
    entry = ledger.read("t")
    assert entry is not None
    assert (entry.status, entry.result) == ("failed", None)
    assert f"expected what a run found in {run_dir / RESULT}, got " in (entry.error or "")
    assert (run_dir / NOISE_KEY).is_file()


@pytest.mark.parametrize("status", ["failed", "stopped"])
def test_one_that_another_command_has_ended_meanwhile_stays_so(
    status: Status, tmp_path: Path, mnist_root: Path
) -> None:
    task, ledger = task_of(tmp_path, mnist_root, "http://127.0.0.1:9"), Ledger(tmp_path / "study")
    ended = TrialRecord("t", status, "/runs/17", error="expected x, got y: z")
    ledger.write(ended)
    run_trial(task, interrupt)
    assert ledger.read("t") == ended
