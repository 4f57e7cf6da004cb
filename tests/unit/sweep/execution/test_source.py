"""The trials that Tune runs, and what is written of those that ended."""

from pathlib import Path

import pytest

from sweeps.design.config import SweepConfig
from sweeps.design.points import trials
from sweeps.execution.source import ListedTrials
from sweeps.execution.tasks import TaskMaker
from sweeps.execution.trial_record import TrialRecord


def listed(folder: Path, scheduler: str) -> ListedTrials:
    metric = "pretrain/kid/mean"
    settings = {"resources.pool": "local"}
    sweep = SweepConfig("study", "smoke", settings, scheduler=scheduler, metric=metric)
    [trial] = trials(sweep)
    maker = TaskMaker(sweep, trial.config, folder, None, {"CPU": 1.0}, 1)
    return ListedTrials(maker, [trial])


@pytest.mark.parametrize(("scheduler", "status"), [("none", "running"), ("asha", "stopped")])
def test_a_trial_that_another_command_retries_is_not_stopped(
    tmp_path: Path, scheduler: str, status: str
) -> None:
    """It failed in this command, which still runs others; only a scheduler stops trials."""
    source = listed(tmp_path, scheduler)
    [trial_id], ledger = source.trial_ids, source.ledger
    ledger.write(TrialRecord(trial_id, "failed", "/runs/17", error="expected x, got y: z"))
    ledger.reopen([trial_id])  # spire sweep --retry-failed
    source.record_ended([{"trial_id": trial_id}])
    record = ledger.read(trial_id)
    assert record is not None
    assert (record.status, record.error, record.run_dir) == (status, None, "/runs/17")


def test_a_trial_is_not_lost_while_a_process_holds_it(tmp_path: Path) -> None:
    """Its own lives on, as where its node is cut off, or another command's has begun it."""
    source = listed(tmp_path, "none")
    [trial_id], ledger = source.trial_ids, source.ledger
    ledger.write(TrialRecord(trial_id, "running", "/runs/17"))
    lost = {trial_id: "its process was lost"}
    with ledger.held(trial_id):
        source.record_lost(lost)
        assert ledger.read(trial_id) == TrialRecord(trial_id, "running", "/runs/17")
    source.record_lost(lost)
    found = ledger.read(trial_id)
    assert found == TrialRecord(trial_id, "failed", "/runs/17", error="its process was lost")
