"""`spire sweep` as it is typed: interrupted, killed, gone on with, and once more when all is done.

What needs no process of its own is in tests/cluster/test_sweeps_here.py.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from pipeline.config.load import load_config
from pipeline.config.meaning import fingerprint
from pipeline.experiment.pretraining import evaluation_rounds
from pipeline.experiment.run import run_experiment
from pipeline.experiment.watcher import Watcher

NUM_ROUNDS = 60  # a trial is to take longer than Tune's grace of 5 s
SEARCH = f"""
preset: smoke
report: false
settings:
  federation: {{num_rounds: {NUM_ROUNDS}, cohort_size: 2, num_clients: 3, num_new_clients: 1}}
  model.width: 8
  adapt.epochs: 1
  eval: {{every: 0, num_images: 16, num_loss_images: 16}}
  diffusion.sample_steps: 2
  tracking: {{checkpoint_every: 1, log_model: false}}
axes: {{client.lr: {{min: 1.0e-4, max: 1.0e-2, log: true}}, method: [spire, fedavg_ft]}}
search: optuna
num_trials: 2
concurrency: 1
"""
NOT_INHERITED = ("MLFLOW_TRACKING_URI", "RAY_ADDRESS", "SPIRE_ROOT")
HERE = "resources.pool=local"  # a trial is one process
ON_ACTORS = "resources.num_actors=1"  # a trial is a process, and an actor for its clients


@dataclass
class Desk:
    """A folder with one sweep's file, in which commands are typed."""

    folder: Path
    env: dict[str, str]

    def start(self, *words: str) -> subprocess.Popen[str]:
        """Start a command in a process group of its own."""
        with (self.folder / "stderr.txt").open("w") as stderr:
            return subprocess.Popen(
                [sys.executable, "-m", "sweeps", "study.yaml", "--json", *words],
                cwd=self.folder,
                env=self.env,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                start_new_session=True,
            )

    def end(self, process: subprocess.Popen[str], expect: int) -> dict[str, Any]:
        """Return the one object that a command prints; empty if it printed nothing."""
        try:
            out, _ = process.communicate(timeout=500)
        finally:
            process.kill()
        assert process.returncode == expect, self.said()[-3000:]
        return json.loads(out) if out else {}

    def sweep(self, *words: str, expect: int = 0) -> dict[str, Any]:
        return self.end(self.start(*words), expect)

    def said(self) -> str:
        return (self.folder / "stderr.txt").read_text()

    def begun(self) -> dict[str, str]:
        """Return the id of the run of each trial that has begun."""
        files = self.folder.glob("studies/*/trials/*/run")
        return {file.parent.name: file.read_text() for file in files}

    def wait_until(self, is_so: Callable[[], bool], process: subprocess.Popen[str]) -> None:
        deadline = time.monotonic() + 300
        while not is_so():
            assert process.poll() is None, self.said()[-3000:]
            assert time.monotonic() < deadline, self.said()[-3000:]
            time.sleep(0.02)

    def newest(self) -> dict[str, int]:
        """Return after which round each running trial has taken its newest checkpoint."""
        folders = [self.folder / "runs" / run_id for run_id in self.begun().values()]
        running = [folder for folder in folders if not (folder / "result.json").is_file()]
        found = {r.name: [int(p.name) for p in r.glob("checkpoints/0*")] for r in running}
        return {run_id: max(rounds) for run_id, rounds in found.items() if rounds}

    def start_and_stop(self, where: str, number: signal.Signals, expect: int) -> dict[str, Any]:
        """Send a signal to a sweep as soon as some trial has got further."""
        before, process = self.newest(), self.start(where)
        self.wait_until(
            lambda: any(n > before.get(r, 0) for r, n in self.newest().items()), process
        )
        os.killpg(process.pid, number)
        return self.end(process, expect)

    def client(self) -> MlflowClient:
        return MlflowClient(f"sqlite:///{self.folder}/mlflow.db")

    def tree(self) -> tuple[Run, list[Run]]:
        """Return the sweep's run and those below it: there are no others."""
        client = self.client()
        experiment = client.get_experiment_by_name("study")
        assert experiment is not None
        runs = client.search_runs([experiment.experiment_id])
        children = [run for run in runs if "mlflow.parentRunId" in run.data.tags]
        [parent] = [run for run in runs if run not in children]
        assert {run.data.tags["mlflow.parentRunId"] for run in children} == {parent.info.run_id}
        return parent, children


@pytest.fixture
def desk(tmp_path: Path, mnist_root: Path, new_database: Path) -> Desk:
    (tmp_path / "study.yaml").write_text(SEARCH)
    shutil.copy(new_database, tmp_path)
    env = {k: v for k, v in os.environ.items() if k not in NOT_INHERITED}
    return Desk(tmp_path, env | {"SPIRE_DATA": str(mnist_root)})


def steps(client: MlflowClient, run: Run, key: str) -> list[int]:
    return [metric.step for metric in client.get_metric_history(run.info.run_id, key)]


def check_tree(desk: Desk, told: dict[str, Any]) -> None:
    """Check that each trial is one finished run that has each step of its numbers once."""
    parent, children = desk.tree()
    assert (parent.info.run_id, parent.info.status) == (told["parent_run_id"], "FINISHED")
    rows = {row["run_id"]: row for row in told["trials"]}
    assert sorted(rows) == sorted(run.info.run_id for run in children)
    for run in children:
        row = rows[run.info.run_id]
        assert run.info.status == "FINISHED"
        assert run.data.tags["state_fingerprint"] == row["state_fingerprint"]
        assert run.data.tags["spire.trial_id"] == row["trial_id"]
        for key in run.data.metrics:
            found = steps(desk.client(), run, key)
            assert max(Counter(found).values()) == 1, key
        num_rounds = int(run.data.params["federation.num_rounds"])
        assert steps(desk.client(), run, "pretrain/loss") == list(range(1, num_rounds + 1))
        evaluated = sorted(evaluation_rounds(num_rounds, int(run.data.params["eval.every"])))
        assert steps(desk.client(), run, "pretrain/kid/mean") == evaluated


@pytest.mark.slow
def test_a_search_that_is_interrupted_and_then_killed_goes_on_to_the_number_of_trials(
    desk: Desk,
    monkeypatch: pytest.MonkeyPatch,
    mnist_root: Path,
    tmp_path: Path,
) -> None:
    told = desk.start_and_stop(HERE, signal.SIGINT, 130)
    assert told["num_unfinished"] >= 1
    assert (told["num_failed"], told["num_stopped"]) == (0, 0)
    parent, children = desk.tree()
    assert parent.info.status == "KILLED"
    ended = {run.info.run_id: run.info.status for run in children}
    statuses = {"unfinished": "KILLED", "finished": "FINISHED"}  # one may end within Tune's grace
    assert ended == {row["run_id"]: statuses[row["status"]] for row in told["trials"]}
    begun = {row["trial_id"]: row["run_id"] for row in told["trials"]}

    assert desk.start_and_stop(ON_ACTORS, signal.SIGKILL, -signal.SIGKILL) == {}
    begun |= desk.begun()

    told = desk.sweep(HERE)
    assert (told["num_trials"], told["num_finished"]) == (2, 2)
    check_tree(desk, told)
    rows = {row["run_id"]: row for row in told["trials"]}
    best = min(told["trials"], key=lambda row: row["metrics"]["final/adapt_kid_after"])
    assert told["best_trial_id"] == best["trial_id"]
    assert begun.items() <= {row["trial_id"]: run_id for run_id, row in rows.items()}.items()
    tag = "spire.resumed_after_round"
    resumed = {
        run.info.run_id: int(run.data.tags[tag]) for run in desk.tree()[1] if tag in run.data.tags
    }
    assert resumed  # some trial went on from a checkpoint
    assert all(0 < round_idx < NUM_ROUNDS for round_idx in resumed.values())

    row = rows[min(resumed)]  # it ends as if it had been run alone
    monkeypatch.setenv("SPIRE_DATA", str(mnist_root))
    words = [*row["overrides"], "tracking.enabled=false", f"tracking.root={tmp_path / 'alone'}"]
    config = load_config("smoke", words)
    alone = run_experiment(config, "smoke", Watcher())
    assert alone.state_fingerprint == row["state_fingerprint"]
    assert fingerprint(config).startswith(row["trial_id"])
    scores = {k: v for k, v in row["metrics"].items() if "duration" not in k}
    assert scores.items() <= alone.metrics.items()
