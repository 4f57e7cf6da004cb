"""Sweeps on a Ray that is there already: failures and early stopping."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import ray
from mlflow import MlflowClient

from sweeps.cli import main

pytestmark = pytest.mark.usefixtures("ray_cluster")

SETTINGS = """
preset: smoke
report: false
settings:
  resources.pool: local
  federation: {num_rounds: 3, cohort_size: 2, num_clients: 3, num_new_clients: 1}
  model.width: 8
  adapt.epochs: 1
  eval: {every: 1, num_images: 8, num_loss_images: 8}
  diffusion.sample_steps: 2
  tracking: {checkpoint_every: 1, log_model: false}
"""


class Desk:
    """Types `spire sweep` in this process, in a folder of its own."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self.capsys = folder, capsys

    def sweep(self, text: str, *words: str) -> tuple[int, dict[str, Any], str]:
        """Return the exit code, the object on stdout, and what was said."""
        file = self.folder / "study.yaml"
        file.write_text(SETTINGS + text)
        code = main(["sweep", str(file), "--json", *words])
        out, said = self.capsys.readouterr()
        assert ray.is_initialized()  # it is not the sweep's to end
        return code, json.loads(out), said

    def runs(self) -> tuple[str, dict[str, str]]:
        """Return the status of the sweep's run, and those of its trials by id of the trial."""
        client = MlflowClient(f"sqlite:///{self.folder}/mlflow.db")
        experiment = client.get_experiment_by_name("study")
        assert experiment is not None
        runs = client.search_runs([experiment.experiment_id])
        tag = "spire.trial_id"
        [parent] = [run.info.status for run in runs if tag not in run.data.tags]
        return parent, {r.data.tags[tag]: r.info.status for r in runs if tag in r.data.tags}


@pytest.fixture
def desk(
    tmp_path: Path,
    mnist_root: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Desk:
    monkeypatch.setenv("SPIRE_ROOT", str(tmp_path))
    monkeypatch.setenv("SPIRE_DATA", str(mnist_root))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return Desk(tmp_path, capsys)


def test_one_that_fails_does_not_stop_the_others(desk: Desk) -> None:
    text = (
        "axes: {federation.max_update_norm: [1.0e-9, 1.0e+3, 1.0e+4]}\n"  # no update passes the 1st
    )
    code, told, said = desk.sweep(text)
    assert code == 1
    failed, *others = told["trials"]
    assert [failed["status"], *(row["status"] for row in others)] == [
        "failed",
        "finished",
        "finished",
    ]
    assert failed["error"].startswith("expected ")
    assert "above 1e-09" in failed["error"]
    parent, statuses = desk.runs()
    assert (parent, statuses[failed["trial_id"]]) == ("FAILED", "FAILED")
    assert Counter(statuses.values()) == {"FAILED": 1, "FINISHED": 2}
    [traceback] = desk.folder.glob("studies/*/trials/*.traceback.txt")
    assert "AggregationError" in traceback.read_text()

    code, again, said = desk.sweep(text)
    assert (code, said) == (1, "")  # it is listed, and not tried again
    assert again == told | {"num_skipped": 2}

    code, retried, said = desk.sweep(text, "--retry-failed")
    assert code == 1
    assert said.startswith("1 of 3 trials to run\n")
    assert retried == told | {"num_skipped": 2}
    assert desk.runs() == (parent, statuses)


def test_a_bad_trial_is_stopped_early(desk: Desk) -> None:
    text = (
        "scheduler: asha\nmetric: pretrain/heldout/own\nconcurrency: 1\n"
        "axes: {client.lr: [1.0e-3, 1.0e-9]}\n"
    )
    code, told, _ = desk.sweep(text)
    assert code == 0
    good, bad = told["trials"]
    assert (good["status"], bad["status"]) == ("finished", "stopped")
    assert told["best_trial_id"] == good["trial_id"]
    assert bad["state_fingerprint"] is None
    parent, statuses = desk.runs()
    assert parent == "FINISHED"
    assert statuses == {good["trial_id"]: "FINISHED", bad["trial_id"]: "KILLED"}
    client = MlflowClient(f"sqlite:///{desk.folder}/mlflow.db")
    losses = client.get_metric_history(bad["run_id"], "pretrain/loss")
    assert [loss.step for loss in losses] == [1]

    code, again, said = desk.sweep(text)
    assert (code, said) == (0, "")  # stopped is an end as well
    assert again == told | {"num_skipped": 1}
