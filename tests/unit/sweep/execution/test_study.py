"""What is known of a sweep's trials between one command and the next."""

import shutil
from pathlib import Path

import pytest
from mlflow import MlflowClient
from trial_runs import begun

from pipeline.config.tracking import TrackingConfig
from pipeline.runs.layout import NOISE_KEY
from pipeline.runs.record import run_lock
from sweeps.design.config import SweepConfig
from sweeps.design.points import trials
from sweeps.execution import study as module
from sweeps.execution.study import Study, progress_of

SWEEP = SweepConfig(name="study", preset="smoke", seeds=(0, 1, 2, 3))


@pytest.fixture
def tracking(tmp_path: Path, new_database: Path) -> TrackingConfig:
    shutil.copy(new_database, tmp_path)
    return TrackingConfig(root=str(tmp_path), uri=f"sqlite:///{tmp_path}/mlflow.db")


@pytest.fixture
def study(tracking: TrackingConfig) -> Study:
    return Study.of(SWEEP, tracking)


def test_the_folder_of_a_trials_run_says_how_far_it_is(
    study: Study, tracking: TrackingConfig, tmp_path: Path
) -> None:
    finished, failed, stopped, begins = [trial.trial_id for trial in trials(SWEEP)]
    begun(study, finished, tracking, {"final/adapt_kid_after": 0.5})
    study.fail(finished, "its process was lost")  # after it had finished
    study.fail(failed, "no answer from\nhttp://me:hunter2@there:1", "Traceback: http://me:pw@a")
    begun(study, stopped, tracking)
    study.trial_file(stopped, "stopped").touch()
    begun(study, begins, tracking)
    shutil.move(tmp_path, there := tmp_path.with_name("there"))  # the root is at another place
    moved = Study(there / "studies" / study.folder.name)
    progress = progress_of(SWEEP, moved, trials(SWEEP))
    assert [*progress.statuses.values()] == ["finished", "failed", "stopped", "unfinished"]
    assert [trial.trial_id for trial in progress.left()] == [begins]
    assert [trial.trial_id for trial in progress.left(True)] == [failed, begins]
    best = progress.best()
    assert best is not None
    assert best.trial_id == finished
    assert progress.results[finished]["metrics"] == {"final/adapt_kid_after": 0.5}
    assert moved.error(failed) == "no answer from http://me:***@there:1"
    assert "pw" not in moved.trial_file(failed, "error.txt").read_text()
    shutil.rmtree(there / "runs")
    assert moved.status(begins) == "unfinished"
    shutil.move(there, tmp_path)


def test_every_trial_that_has_begun_gets_its_end(
    study: Study, tracking: TrackingConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that failed may be tried again, under its noise key; one whose process lives ends it."""
    monkeypatch.setattr(module, "DYING_S", 0.0)
    run_dirs = {name: begun(study, name, tracking) for name in ("killed", "failed", "stopped")}
    run_dirs["finished"] = begun(study, "finished", tracking, {})
    run_dirs["living"] = begun(study, "living", tracking)
    study.fail("failed", "expected x, got y: z")
    study.trial_file("stopped", "stopped").touch()
    with run_lock(run_dirs["living"]):
        study.end_trials(tracking)
    client = MlflowClient(tracking.uri)
    assert {name: client.get_run(path.name).info.status for name, path in run_dirs.items()} == {
        "killed": "KILLED",
        "failed": "FAILED",
        "stopped": "KILLED",
        "finished": "FINISHED",
        "living": "RUNNING",
    }
    keys = {name for name, path in run_dirs.items() if (path / NOISE_KEY).is_file()}
    assert keys == {"killed", "failed", "living"}
