"""A sweep's own run: one whoever begins it, and gone on with as long as the store has it."""

import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow import MlflowClient

from pipeline.config.tracking import TrackingConfig
from pipeline.runs.layout import NOISE_KEY, RECORD, RESULT
from pipeline.runs.record import save_result
from pipeline.tracking.mlflow_queries import artifact_text, sweep_runs
from pipeline.tracking.tracker import Tracker
from spire_core.errors import RunError
from sweeps.cli import main
from sweeps.design.config import SweepConfig
from sweeps.design.points import trials
from sweeps.execution.ledger import Ledger
from sweeps.execution.parent_run import parent_run
from sweeps.execution.trial_record import Status, TrialRecord

SWEEP = SweepConfig(name="study", preset="smoke", seeds=(0, 1), question="Is it better?")


@pytest.fixture
def tracking(tmp_path: Path, new_database: Path) -> TrackingConfig:
    shutil.copy(new_database, tmp_path)
    return TrackingConfig(root=str(tmp_path), uri=f"sqlite:///{tmp_path}/mlflow.db")


def begin(tracking: TrackingConfig) -> str:
    """Return the id of the sweep's own run, begun or gone on with."""
    with parent_run(SWEEP, Ledger.of(SWEEP, tracking), tracking) as run_id:
        assert run_id is not None
        return run_id


def test_two_commands_that_begin_together_have_one_run(tracking: TrackingConfig) -> None:
    ready = threading.Barrier(2)

    def command() -> str:
        ready.wait()
        return begin(tracking)

    with ThreadPoolExecutor(2) as threads:
        first, second = (threads.submit(command) for _ in range(2))
        assert first.result() == second.result()


def test_a_command_that_is_killed_at_its_start_leaves_no_run_without_the_sweeps_file(
    tracking: TrackingConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The report tests the comparisons in it, whatever was killed when."""
    with monkeypatch.context() as patched:
        patched.setattr(Tracker, "log_dict", killed)
        with pytest.raises(KeyboardInterrupt):
            begin(tracking)
    assert artifact_text(tracking, begin(tracking), "config/sweep.yaml")


def killed(*args: object) -> None:
    raise KeyboardInterrupt


def test_its_description_is_the_question(tracking: TrackingConfig) -> None:
    tags = MlflowClient(tracking.uri).get_run(begin(tracking)).data.tags
    assert tags["mlflow.note.content"] == "**study**\n\nIs it better?"


def test_it_goes_on_though_its_folder_was_deleted(tracking: TrackingConfig, tmp_path: Path) -> None:
    run_id = begin(tracking)
    shutil.rmtree(tmp_path / "runs")
    assert begin(tracking) == run_id
    assert (tmp_path / "runs" / run_id / RECORD).is_file()
    assert begin(tracking) == run_id
    assert MlflowClient(tracking.uri).get_run(run_id).info.status == "KILLED"  # trials are left


def test_one_that_was_deleted_in_the_store_is_begun_anew(tracking: TrackingConfig) -> None:
    run_id = begin(tracking)
    MlflowClient(tracking.uri).delete_run(run_id)
    other = begin(tracking)
    assert other != run_id
    assert begin(tracking) == other


def test_the_new_one_has_the_trials_below_it(tracking: TrackingConfig) -> None:
    client, ledger = MlflowClient(tracking.uri), Ledger.of(SWEEP, tracking)
    client.delete_run(begin(tracking))
    kept, deleted = begun(tracking), begun(tracking)
    client.delete_run(deleted.name)
    for trial, run_dir in zip(trials(SWEEP), (kept, deleted), strict=True):
        ledger.write(TrialRecord(trial.trial_id, "finished", str(run_dir)))
    other = begin(tracking)
    parent, runs = sweep_runs(tracking, ["study"])
    assert parent is not None
    assert parent.run_id == other
    assert [run.run_id for run in runs] == [kept.name]


def test_a_store_that_does_not_know_it_is_the_wrong_one_unless_its_folder_is_gone_too(
    tracking: TrackingConfig, new_database: Path, tmp_path: Path
) -> None:
    run_id = begin(tracking)
    shutil.copy(new_database, tmp_path)
    with pytest.raises(RunError, match=f"expected run {run_id} in the store") as error:
        begin(tracking)
    # With tracking.uri it would be another sweep.
    assert str(error.value).endswith(
        f"got none: set MLFLOW_TRACKING_URI={tracking.uri} to go on where it began"
    )
    shutil.rmtree(tmp_path / "runs")
    assert begin(tracking) != run_id


@pytest.mark.parametrize("last", ["stopped", "failed", "running"])
def test_the_noise_key_of_a_trial_goes_when_nobody_can_go_on_with_it(
    last: Status, tracking: TrackingConfig
) -> None:
    """One that failed may be tried again, under its key."""
    ledger, trial = Ledger.of(SWEEP, tracking), begun(tracking)
    key = trial / NOISE_KEY
    key.write_bytes(bytes(range(32)))
    ledger.write(TrialRecord(trials(SWEEP)[0].trial_id, last, str(trial)))
    begin(tracking)
    assert key.is_file() == (last != "stopped")
    assert status(tracking, trial) == ("FAILED" if last == "failed" else "KILLED")


def test_a_trial_whose_process_was_killed_after_its_result_has_finished(
    tracking: TrackingConfig,
) -> None:
    """As by the end of Tune's grace, between the run's last status and the ledger."""
    ledger, whole, torn = Ledger.of(SWEEP, tracking), begun(tracking), begun(tracking)
    first, second = (trial.trial_id for trial in trials(SWEEP))
    result = {"metrics": {"final/adapt_kid_after": 0.5}}
    save_result(whole, result)
    ledger.write(TrialRecord(first, "running", str(whole), error="its store did not answer"))
    ledger.write(TrialRecord(second, "running", str(torn)))
    (torn / RESULT).write_text("{")
    parent = begin(tracking)
    found = ledger.read(first)
    assert found is not None
    assert (found.status, found.error) == ("finished", None)
    assert found.result == result | {"run_id": whole.name}
    assert status(tracking, whole) == "FINISHED"
    left = ledger.read(second)  # what it found cannot be read: somebody has to look
    assert left is not None
    assert left.status == "running"
    assert status(tracking, torn) == "RUNNING"
    assert MlflowClient(tracking.uri).get_run(parent).info.status == "KILLED"


class Desk:
    """Types `spire sweep` for a sweep that has no trial left: the second of its two has failed."""

    def __init__(
        self, tracking: TrackingConfig, folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        self.tracking, self.folder, self.capsys = tracking, folder, capsys
        self.ledger, self.failed = Ledger.of(SWEEP, tracking), begun(tracking)
        finished, failed = (trial.trial_id for trial in trials(SWEEP))
        self.ledger.write(TrialRecord(finished, "finished", result={"metrics": {}}))
        self.ledger.write(
            TrialRecord(failed, "failed", str(self.failed), error="its process was lost")
        )
        (folder / "study.yaml").write_text("preset: smoke\nseeds: [0, 1]\n")

    def sweep(self) -> str:
        """Return what it says at its end."""
        assert main(["sweep", str(self.folder / "study.yaml")]) == 1
        return self.capsys.readouterr().out


@pytest.fixture
def desk(
    tracking: TrackingConfig,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Desk:
    monkeypatch.setenv("SPIRE_ROOT", str(tmp_path))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return Desk(tracking, tmp_path, capsys)


def begun(tracking: TrackingConfig) -> Path:
    """Return the folder of a run whose process is gone without giving it an end."""
    tracker = Tracker.start(tracking, "begun", {"spire.kind": "sweep"})
    tracker.leave()
    return tracker.run_dir


def status(tracking: TrackingConfig, run_dir: Path) -> str:
    return MlflowClient(tracking.uri).get_run(run_dir.name).info.status


def test_one_that_was_killed_after_its_last_trial_is_ended_by_the_same_command(desk: Desk) -> None:
    parent = begun(desk.tracking)
    desk.ledger.remember_parent(parent)
    assert status(desk.tracking, parent) == status(desk.tracking, desk.failed) == "RUNNING"
    desk.sweep()
    assert status(desk.tracking, parent) == status(desk.tracking, desk.failed) == "FAILED"
    ended = MlflowClient(desk.tracking.uri).get_run(parent.name).info.end_time
    desk.sweep()
    assert MlflowClient(desk.tracking.uri).get_run(parent.name).info.end_time == ended


def test_the_report_of_one_that_nobody_remembers_is_by_name(desk: Desk) -> None:
    assert "no report: expected a sweep's name or id" in desk.sweep()


def test_of_two_commands_the_last_ends_it_and_the_trials_of_both(tracking: TrackingConfig) -> None:
    ledger, trial = Ledger.of(SWEEP, tracking), begun(tracking)
    others = trials(replace(SWEEP, seeds=(7,)))
    with parent_run(SWEEP, ledger, tracking):
        parent = ledger.parent_run_dir
        assert parent is not None
        ledger.write(TrialRecord(others[0].trial_id, "running", str(trial)))
        with pytest.raises(KeyboardInterrupt), parent_run(SWEEP, ledger, tracking):
            raise KeyboardInterrupt
        assert status(tracking, parent) == status(tracking, trial) == "RUNNING"
    assert status(tracking, parent) == status(tracking, trial) == "KILLED"
