"""What becomes of a trial whose tracking run was deleted, or whose store does not answer."""

import shutil
from pathlib import Path

import pytest
from mlflow import MlflowClient

from pipeline.config.load import load_config
from spire_core.errors import StoreError
from sweeps.execution.ledger import Ledger
from sweeps.execution.trial import TrialTask, run_trial

SMALL = ("resources.pool=local", "federation.num_rounds=2", "eval.every=1", "adapt.epochs=1")
SMALL += ("eval.num_images=8", "eval.num_loss_images=8", "diffusion.sample_steps=2")
SMALL += ("model.width=8", "tracking.log_model=false")


def task_of(folder: Path, mnist_root: Path, uri: str) -> TrialTask:
    places = (f"data.root={mnist_root}", f"tracking.root={folder}", f"tracking.uri={uri}")
    config = load_config("smoke", [*SMALL, *places])
    return TrialTask("t", config, "smoke", {}, str(folder / "study"), None, None, {})


def interrupt(metrics: dict[str, float]) -> None:
    raise KeyboardInterrupt


def test_one_whose_run_was_deleted_in_the_store_begins_anew(
    tmp_path: Path, mnist_root: Path, new_database: Path
) -> None:
    shutil.copy(new_database, tmp_path)
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    task, ledger = task_of(tmp_path, mnist_root, uri), Ledger(tmp_path / "study")
    with pytest.raises(KeyboardInterrupt):
        run_trial(task, interrupt)
    begun = ledger.read("t")
    assert begun is not None
    assert begun.run_id is not None
    MlflowClient(uri).delete_run(begun.run_id)
    reports: list[dict[str, float]] = []
    run_trial(task, reports.append)
    again = ledger.read("t")
    assert again is not None
    assert (again.status, again.error) == ("finished", None)
    assert again.run_id != begun.run_id
    assert MlflowClient(uri).get_run(again.run_id or "").info.status == "FINISHED"


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
