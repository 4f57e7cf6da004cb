"""A trial in its process: deleted, killed at its very end, interrupted, or with its store away."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from pipeline.checkpoint.snapshots import checkpoints
from pipeline.config.load import write_value
from pipeline.config.tracking import TrackingConfig
from pipeline.experiment import run
from pipeline.runs.layout import NOISE_KEY
from pipeline.runs.record import load_result, run_lock
from pipeline.tracking.tracker import Tracker
from spire_core.errors import BusyError, ClusterError, StoreError
from sweeps.design.config import SweepConfig
from sweeps.design.points import Trial, trials
from sweeps.execution.study import Study
from sweeps.execution.trial import Command, run_trial

SETTINGS: dict[str, Any] = {
    "resources.pool": "local",
    "federation.num_rounds": 3,
    "eval.every": 1,
    "adapt.epochs": 1,
    "eval.num_images": 8,
    "eval.num_loss_images": 8,
    "diffusion.sample_steps": 2,
    "model.width": 8,
    "tracking.log_model": False,
}
PRIVATE: dict[str, Any] = {"adapt.num_images": 8, "adapt.group_size": 1, "privacy.adapt.epsilon": 4}
PRIVATE |= {"privacy.adapt.steps": 2, "privacy.adapt.draws": 2}


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs draw none here, where nobody looks at them."""
    monkeypatch.setattr(Tracker, "log_figure", lambda *_: None)


@pytest.fixture
def uri(tmp_path: Path, new_database: Path) -> str:
    shutil.copy(new_database, tmp_path)
    return f"sqlite:///{tmp_path}/mlflow.db"


def command_of(
    root: Path, data: Path, uri: str, scheduler: str = "none", **settings: Any
) -> tuple[Command, Trial]:
    metric = "pretrain/heldout/own" if scheduler != "none" else "final/adapt_kid_after"
    sweep = SweepConfig("a", "smoke", SETTINGS | settings, metric=metric, scheduler=scheduler)
    tracking = TrackingConfig(root=str(root), uri=uri, log_model=False, checkpoint_every=0)
    study, [trial] = Study.of(sweep, tracking), trials(sweep)
    study.folder.mkdir(parents=True)
    stop = study.folder / "stop"
    data_root, listed = str(data), {trial.trial_id: trial}
    nodes = [{"CPU": 1.0}]
    return (
        Command(sweep, study, listed, tracking, data_root, str(root), None, nodes, 1, stop),
        trial,
    )


def begun_by(command: Command, trial: Trial) -> Path:
    """Begin a trial, interrupt it after its first round, and return its run's folder."""

    def interrupt(metrics: dict[str, float]) -> None:
        command.stop.touch()

    run_trial(command, trial, interrupt)
    command.stop.unlink()
    run_dir = command.study.run_dir(trial.trial_id)
    assert run_dir is not None
    assert command.study.status(trial.trial_id) == "unfinished"
    return run_dir


def test_one_that_is_to_end_keeps_its_last_round_and_goes_on(
    tmp_path: Path, mnist_root: Path, uri: str
) -> None:
    command, trial = command_of(tmp_path, mnist_root, uri, scheduler="asha")
    run_dir = begun_by(command, trial)
    client = MlflowClient(uri)
    assert client.get_run(run_dir.name).info.status == "KILLED"
    assert [int(path.name) for path in checkpoints(run_dir)] == [1]  # of 3 rounds
    reports: list[dict[str, float]] = []
    run_trial(command, trial, reports.append)
    assert [report["round"] for report in reports] == [2, 3, 4]
    tags = client.get_run(run_dir.name).data.tags
    assert tags["spire.resumed_after_round"] == "1"
    assert "Preset smoke" in tags["mlflow.note.content"]
    run_trial(command, trial, reports.append)  # it is finished: it reports, and nothing more
    assert [report["round"] for report in reports[-1:]] == [4]


def test_one_that_was_killed_right_at_its_end_has_finished(
    tmp_path: Path, mnist_root: Path, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its result is there, and it neither fails nor adapts once more; its end is brought about."""
    command, trial = command_of(tmp_path, mnist_root, uri, **PRIVATE)

    def die(run_dir: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(run, "drop_noise_key", die)
        run_trial(command, trial, lambda _: None)
    run_dir = command.study.run_dir(trial.trial_id)
    assert run_dir is not None
    assert (run_dir / NOISE_KEY).is_file()
    reports: list[dict[str, float]] = []
    run_trial(command, trial, reports.append)
    assert len(reports) == 1
    command.study.end_trials(command.tracking)
    assert command.study.result(trial.trial_id) == load_result(run_dir)
    assert not (run_dir / NOISE_KEY).exists()
    assert MlflowClient(uri).get_run(run_dir.name).info.status == "FINISHED"


@pytest.mark.slow
def test_one_that_only_its_store_or_another_process_keeps_from_beginning_is_unfinished(
    tmp_path: Path, mnist_root: Path, uri: str
) -> None:
    away, trial = command_of(tmp_path / "away", mnist_root, "http://127.0.0.1:9")
    with pytest.raises(StoreError, match=r"expected an MLflow store at http://127\.0\.0\.1:9"):
        run_trial(away, trial, lambda _: None)
    assert away.study.status(trial.trial_id) == "unfinished"
    shutil.rmtree(away.study.folder)  # as on a node that does not share it
    with pytest.raises(ClusterError, match="on every node, got none here: name one that all"):
        run_trial(away, trial, lambda _: None)

    command, trial = command_of(tmp_path, mnist_root, uri, scheduler="asha")
    deleted = begun_by(command, trial)
    with run_lock(deleted), pytest.raises(BusyError, match="nobody at work on"):
        run_trial(command, trial, lambda _: None)
    assert command.study.status(trial.trial_id) == "unfinished"
    MlflowClient(uri).delete_run(deleted.name)  # it begins anew
    run_trial(command, trial, lambda _: None)
    assert command.study.run_dir(trial.trial_id) not in (None, deleted)
    assert command.study.status(trial.trial_id) == "finished"


def test_a_trial_has_absolute_paths_from_the_commands_folder(
    tmp_path: Path, mnist_root: Path
) -> None:
    photos = {"data.name": "folder", "data.path": "photos", "data.image_size": 16}
    command, trial = command_of(tmp_path, mnist_root, "http://127.0.0.1:9", **photos)
    config = command.config(trial)
    assert config.data.path == str(tmp_path / "photos")
    assert config.data.root == str(mnist_root)
    assert config.tracking.run_name == "spire seed=0"
    assert write_value("photos") in "".join(trial.overrides)
