"""The ends of trials whose process is gone, as the last command at a sweep brings them about."""

import shutil
import threading
from pathlib import Path

import pytest
from mlflow import MlflowClient

from pipeline.config.tracking import TrackingConfig
from pipeline.runs.layout import NOISE_KEY, REFUSED, RESULT
from pipeline.runs.record import run_lock, save_result
from pipeline.tracking.outbox import Outbox, num_waiting
from pipeline.tracking.tracker import Tracker
from spire_core.errors import StoreError
from sweeps.execution import ended
from sweeps.execution.ended import end_trials
from sweeps.execution.ledger import Ledger
from sweeps.execution.trial_record import Status, TrialRecord

FOUND = {"metrics": {"final/adapt_kid_after": 0.5}}


class Desk:
    """A sweep's ledger, and runs of its trials whose processes are gone."""

    def __init__(self, folder: Path) -> None:
        self.tracking = TrackingConfig(root=str(folder), uri=f"sqlite:///{folder}/mlflow.db")
        self.ledger, self.client = Ledger(folder / "study"), MlflowClient(self.tracking.uri)

    def begun(self, trial_id: str, status: Status, result: str | None = None) -> Path:
        """Return the folder of a trial's run, with a noise key and the content of its result."""
        tracker = Tracker.start(self.tracking, trial_id, {})
        tracker.leave()
        (tracker.run_dir / NOISE_KEY).write_bytes(bytes(range(32)))
        if result is not None:
            (tracker.run_dir / RESULT).write_text(result)
        self.ledger.write(TrialRecord(trial_id, status, str(tracker.run_dir)))
        return tracker.run_dir

    def status(self, run_dir: Path) -> str:
        return self.client.get_run(run_dir.name).info.status

    def record(self, trial_id: str) -> TrialRecord:
        record = self.ledger.read(trial_id)
        assert record is not None
        return record

    def end(self) -> None:
        end_trials(self.ledger, self.tracking)


@pytest.fixture
def desk(tmp_path: Path, new_database: Path) -> Desk:
    shutil.copy(new_database, tmp_path)
    return Desk(tmp_path)


def test_every_trial_that_has_begun_gets_its_end(desk: Desk) -> None:
    """Whatever seeds the last command has."""
    interrupted, failed = desk.begun("a", "running"), desk.begun("b", "failed")
    desk.end()
    assert (desk.status(interrupted), desk.status(failed)) == ("KILLED", "FAILED")


def test_one_that_counts_as_lost_though_its_result_is_there_has_finished(desk: Desk) -> None:
    whole, torn = desk.begun("a", "failed"), desk.begun("b", "failed", "{")
    save_result(whole, FOUND)
    desk.end()
    assert (desk.status(whole), desk.status(torn)) == ("FINISHED", "FAILED")
    assert desk.record("a").status == "finished"
    assert desk.record("a").result == FOUND | {"run_id": whole.name}
    assert desk.record("b").status == "failed"
    assert not (whole / NOISE_KEY).exists()
    assert (torn / NOISE_KEY).is_file()


def test_one_whose_process_lives_is_left_to_it(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(ended, "DYING_S", 0.0)
    living, gone = desk.begun("a", "stopped"), desk.begun("b", "stopped")
    with run_lock(living):
        desk.end()
    assert (desk.status(living), desk.status(gone)) == ("RUNNING", "KILLED")
    assert (living / NOISE_KEY).is_file()
    assert "expected nobody at work on the run in" in caplog.text
    desk.end()
    assert desk.status(living) == "KILLED"
    assert not (living / NOISE_KEY).exists()


def test_one_whose_process_is_dying_is_waited_for(desk: Desk) -> None:
    dying, is_locked, ends = desk.begun("a", "running"), threading.Event(), threading.Event()

    def die() -> None:
        with run_lock(dying):
            is_locked.set()
            ends.wait(0.3)

    thread = threading.Thread(target=die)
    thread.start()
    is_locked.wait()
    desk.end()
    thread.join()
    assert desk.status(dying) == "KILLED"


def test_one_that_was_deleted_in_the_store_stays_as_it_is(desk: Desk) -> None:
    """It may be restored there with all that waits for it, and its trial begins anew."""
    deleted = desk.begun("a", "running")
    save_result(deleted, FOUND)
    Outbox(deleted).append_points([(0, {"a": 1.0})])
    desk.client.delete_run(deleted.name)
    desk.end()
    assert num_waiting(deleted) == 2
    assert not (deleted / REFUSED).exists()
    assert desk.record("a").status == "running"


def test_a_store_that_is_away_is_asked_once(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run_dirs = [desk.begun(trial_id, "running") for trial_id in "abc"]
    save_result(run_dirs[0], FOUND)
    asked: list[Path] = []

    def ask(run_dir: Path, _: TrackingConfig) -> bool:
        asked.append(run_dir)
        raise StoreError("expected an MLflow store, got 'no answer'")

    with monkeypatch.context() as patched:
        patched.setattr(ended, "is_deleted", ask)
        desk.end()
    assert asked == run_dirs[:1]
    assert [Outbox(run_dir).status for run_dir in run_dirs] == ["FINISHED", "KILLED", "KILLED"]
    assert "the ends of trials wait for `spire sync`: expected an MLflow store" in caplog.text
    desk.end()
    assert [desk.status(run_dir) for run_dir in run_dirs] == ["FINISHED", "KILLED", "KILLED"]
    assert desk.record("a").status == "finished"
