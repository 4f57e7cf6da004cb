"""Sweeps on a Ray that is there already: failures, early stopping, and what cannot start."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import ray
from mlflow import MlflowClient

from spire_core.config.privacy import label_of
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
  eval: {every: 0, num_images: 8, num_loss_images: 8}
  diffusion.sample_steps: 2
  tracking: {checkpoint_every: 1, log_model: false}
"""
OUTSIDE = ("method=calm", "data=bars", "eval.extractor=mnist-cnn", "eval.metrics=[contrast_gap]")


class Desk:
    """Types `spire sweep` in this process, in a folder of its own."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self.capsys = folder, capsys

    def sweep(self, text: str, *words: str) -> tuple[int, dict[str, Any], str]:
        """Return the exit code, the object on stdout, and what was said."""
        code, out, said = self._type(text, *words)
        return code, json.loads(out), said

    def refused(self, text: str, *words: str) -> str:
        """Return what was said of a sweep that does not begin."""
        code, out, said = self._type(text, *words)
        assert (code, out) == (2, "")
        return said

    def _type(self, text: str, *words: str) -> tuple[int, str, str]:
        file = self.folder / "study.yaml"
        file.write_text(SETTINGS + text)
        code = main(["sweep", str(file), "--json", *words])
        assert ray.is_initialized()  # it is not the sweep's to end
        return code, *self.capsys.readouterr()

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
    new_database: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Desk:
    monkeypatch.setenv("SPIRE_ROOT", str(tmp_path))
    monkeypatch.setenv("SPIRE_DATA", str(mnist_root))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copy(new_database, tmp_path)
    return Desk(tmp_path, capsys)


def rates(*several: str) -> str:
    """A sweep over learning rates, one trial after the other."""
    return f"concurrency: 1\naxes: {{client.lr: [{', '.join(several)}]}}\n"


DIVERGES = "1.0e+3"  # at once


def test_one_that_failed_is_listed_and_more_can_follow(desk: Desk) -> None:
    code, told, _ = desk.sweep(rates(DIVERGES), *OUTSIDE)
    assert (code, told["num_finished"], told["num_failed"]) == (1, 0, 1)
    [failed] = told["trials"]
    assert failed["status"] == "failed"
    assert failed["error"].startswith("expected an update that can be averaged")
    [error] = desk.folder.glob("studies/*/trials/*/error.txt")
    assert "DivergenceError" in error.read_text()
    assert desk.runs() == ("FAILED", {failed["trial_id"]: "FAILED"})

    code, more, said = desk.sweep(rates(DIVERGES, "1.0e-3"), *OUTSIDE)
    assert (code, more["num_finished"], more["num_failed"]) == (1, 1, 1)
    assert more["parent_run_id"] == told["parent_run_id"]
    assert more["trials"][0] == failed  # it is listed, and not tried again
    other = more["trials"][1]
    assert "final/adapt_contrast_gap_after" in other["metrics"]
    assert "lr=0.001 seed=0: finished, final/adapt_kid_after " in said
    ends = {failed["trial_id"]: "FAILED", other["trial_id"]: "FINISHED"}
    assert desk.runs() == ("FAILED", ends)


class NeverThere:
    """Ends every process but this one as it arrives there."""

    def __reduce__(self) -> tuple[Any, ...]:
        return arrive, (os.getpid(),)


def arrive(home: int) -> NeverThere:
    if os.getpid() != home:
        os._exit(1)
    return NeverThere()


@pytest.mark.slow
def test_one_whose_process_never_came_up_is_listed(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sweeps.execution.tune.run_trial", NeverThere())
    code, told, said = desk.sweep("concurrency: 1\naxes: {adapt.lr: [0.1]}\n", "max_failures=0")
    assert "lost for good" in said
    [row] = told["trials"]
    assert (code, row["status"]) == (1, "failed")
    assert row["error"]


@pytest.mark.slow
def test_a_bad_trial_is_stopped_early_and_one_that_fails_stops_no_other(desk: Desk) -> None:
    text = "scheduler: asha\nmetric: pretrain/heldout/own\n"
    text += rates(DIVERGES, "1.0e-3", "1.0e-9")
    code, told, _ = desk.sweep(text, "eval.every=1")
    assert code == 1
    failed, good, bad = told["trials"]
    statuses = ["failed", "finished", "stopped"]
    assert [trial["status"] for trial in told["trials"]] == statuses
    assert told["best_trial_id"] == good["trial_id"]
    assert bad["state_fingerprint"] is None
    ends = {failed["trial_id"]: "FAILED", good["trial_id"]: "FINISHED", bad["trial_id"]: "KILLED"}
    assert desk.runs() == ("FAILED", ends)
    client = MlflowClient(f"sqlite:///{desk.folder}/mlflow.db")
    losses = client.get_metric_history(bad["run_id"], "pretrain/loss")
    assert [loss.step for loss in losses] == [1]

    code, again, said = desk.sweep(text, "eval.every=1")
    assert (code, said) == (1, "")  # stopped is an end as well
    assert again == told | {"num_skipped": 1}


@pytest.mark.slow
def test_neither_a_password_nor_a_given_noise_key_is_written_or_said(desk: Desk) -> None:
    """Nowhere but in the user's own file stands the key; its command goes on."""
    key = "a s3cret phrase"
    text = f"concurrency: 1\naxes: {{privacy.noise_key: [{key}]}}\n"
    words = ["tracking.uri=http://me:hunter2@127.0.0.1:9", "tracking.enabled=false"]
    words += ["client.opt_state=reset", "client.engine=loop", "privacy.rounds.epsilon=8"]
    words += ["privacy.rounds.noise_cohort=3", "federation.num_rounds=1"]
    code, told, said = desk.sweep(text, *words)
    assert (code, told["num_finished"]) == (0, 1)
    assert [row["point"] for row in told["trials"]] == [{"privacy.noise_key": label_of(key)}]
    assert any("***@127.0.0.1" in setting for setting in told["trials"][0]["overrides"])
    code, again, more = desk.sweep(text, *words)
    assert (code, again["num_skipped"], again["trials"]) == (0, 1, told["trials"])
    files = [p for p in desk.folder.rglob("*") if p.is_file() and p.name != "study.yaml"]
    assert any(path.name == "tuner.pkl" for path in files)
    for secret in (key, "hunter2"):
        assert secret not in json.dumps([told, again]) + said + more
        assert [path for path in files if secret.encode() in path.read_bytes()] == []


GRID = "axes: {method: [spire, fedavg_ft]}\n"


def test_a_store_that_does_not_answer_is_found_before_anything_starts(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    before = {*desk.folder.iterdir()}
    [sentence] = desk.refused(GRID).splitlines()
    assert "expected an MLflow store at http://127.0.0.1:9" in sentence
    assert {*desk.folder.iterdir()} - before == {desk.folder / "study.yaml"}


def test_what_can_never_fit_is_refused_before_anything_starts(desk: Desk) -> None:
    words = ("resources={pool: ray, num_gpus: 0.5, num_actors: 3}",)
    sentence = desk.refused(GRID, *words).splitlines()[-1]
    assert sentence.startswith("spire sweep: expected client actors that fit")
    assert not list(desk.folder.glob("runs/*"))
    assert not list(desk.folder.glob("studies/*"))
    client = MlflowClient(f"sqlite:///{desk.folder}/mlflow.db")
    assert client.get_experiment_by_name("study") is None
