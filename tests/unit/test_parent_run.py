"""A sweep's own run: one whoever begins it, and gone on with as long as the store has it."""

import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from mlflow import MlflowClient

from pipeline.runs import RECORD, TrackingConfig
from spire_core.errors import RunError
from sweeps.ledger import Ledger
from sweeps.space import SweepConfig
from sweeps.sweep import parent_run

SWEEP = SweepConfig(name="study")


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


def test_a_store_that_does_not_know_it_is_the_wrong_one_unless_its_folder_is_gone_too(
    tracking: TrackingConfig, new_database: Path, tmp_path: Path
) -> None:
    run_id = begin(tracking)
    shutil.copy(new_database, tmp_path)
    with pytest.raises(RunError, match=f"expected run {run_id} in the store") as error:
        begin(tracking)
    # With tracking.uri it would be another sweep.
    assert str(error.value).endswith(
        f"got none: set MLFLOW_TRACKING_URI to where the sweep began, {tracking.uri}"
    )
    shutil.rmtree(tmp_path / "runs")
    assert begin(tracking) != run_id
