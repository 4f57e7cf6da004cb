"""`spire sweep` as it is typed: once, again, killed, interrupted, and when it cannot start."""

import json
import os
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

from pipeline.experiment import evaluation_rounds

NUM_ROUNDS = 10
SETTINGS = f"""
preset: smoke
report: false
settings:
  federation: {{num_rounds: {NUM_ROUNDS}, cohort_size: 2, num_clients: 3, num_new_clients: 1}}
  model.width: 8
  adapt.epochs: 1
  eval: {{every: 5, num_images: 16, num_loss_images: 16}}
  diffusion.sample_steps: 2
  tracking: {{checkpoint_every: 1, log_model: false}}
"""
GRID = SETTINGS + "axes: {method: [spire, fedavg_ft]}\n"
SEARCH = SETTINGS + (
    "axes: {client.lr: {min: 1.0e-4, max: 1.0e-2, log: true}, method: [spire, fedavg_ft]}\n"
    "search: optuna\nnum_trials: 3\n"
)
HERE = "resources.pool=local"  # a trial is one process


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

    def entries(self) -> list[dict[str, Any]]:
        files = self.folder.glob("studies/*/trials/*.json")
        return [json.loads(file.read_text()) for file in files]

    def wait_until(self, is_so: Callable[[], bool], process: subprocess.Popen[str]) -> None:
        deadline = time.monotonic() + 300
        while not is_so():
            assert process.poll() is None, self.said()[-3000:]
            assert time.monotonic() < deadline, self.said()[-3000:]
            time.sleep(0.02)

    def is_in_the_middle(self) -> bool:
        """Return whether a trial is running and has taken a checkpoint."""
        running = [e["run_dir"] for e in self.entries() if e["status"] == "running"]
        return any(list(Path(run_dir, "checkpoints").glob("0*")) for run_dir in running if run_dir)

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


MakeDesk = Callable[[str], Desk]


@pytest.fixture(scope="module")
def make_desk(tmp_path_factory: pytest.TempPathFactory, mnist_root: Path) -> MakeDesk:
    def make(text: str) -> Desk:
        folder = tmp_path_factory.mktemp("sweep")
        (folder / "study.yaml").write_text(text)
        left_out = ("MLFLOW_TRACKING_URI", "RAY_ADDRESS", "SPIRE_ROOT")
        env = {k: v for k, v in os.environ.items() if k not in left_out}
        return Desk(folder, env | {"SPIRE_DATA": str(mnist_root)})

    return make


@pytest.fixture(scope="module")
def desk(make_desk: MakeDesk) -> Desk:
    return make_desk(GRID)


@pytest.fixture(scope="module")
def whole(desk: Desk) -> dict[str, Any]:
    """What a sweep that nothing interrupts comes to."""
    return desk.sweep(HERE)


def comparable(told: dict[str, Any]) -> list[dict[str, Any]]:
    keys = ("trial_id", "label", "status", "state_fingerprint", "metrics")
    return [{key: row[key] for key in keys} for row in told["trials"]]


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


def test_each_trial_is_a_run_below_the_sweeps(whole: dict[str, Any], desk: Desk) -> None:
    counts = ("num_trials", "num_finished", "num_failed", "num_unfinished", "num_skipped")
    assert [whole[count] for count in counts] == [2, 2, 0, 0, 0]
    assert [row["label"] for row in whole["trials"]] == ["spire seed=0", "fedavg_ft seed=0"]
    best = min(whole["trials"], key=lambda row: row["metrics"]["final/adapt_kid_after"])
    assert whole["best_trial_id"] == best["trial_id"]
    check_tree(desk, whole)


def test_the_same_command_again_skips_every_trial(whole: dict[str, Any], desk: Desk) -> None:
    before = sorted(desk.folder.rglob("*"))
    began = time.monotonic()
    again = desk.sweep(HERE)
    assert time.monotonic() - began < 20  # four seconds on an idle machine
    assert again == whole | {"num_skipped": 2}
    assert desk.said() == ""  # no trial is counted, no Ray is started
    assert sorted(desk.folder.rglob("*")) == before


def test_a_trial_run_alone_ends_in_the_same_state(whole: dict[str, Any], desk: Desk) -> None:
    row = whole["trials"][0]
    command = [sys.executable, "-m", "pipeline", "run", "smoke", "--quiet", "--json"]
    command += [*row["overrides"], "tracking.enabled=false"]
    done = subprocess.run(
        command, cwd=desk.folder, env=desk.env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["state_fingerprint"] == row["state_fingerprint"]
    assert told["config_fingerprint"].startswith(row["trial_id"])
    assert row["metrics"].items() <= told["metrics"].items()


def test_a_killed_sweep_goes_on_to_the_same_outcome(
    whole: dict[str, Any], make_desk: MakeDesk
) -> None:
    desk = make_desk(GRID)  # with client actors, which change nothing
    process = desk.start()
    desk.wait_until(desk.is_in_the_middle, process)
    os.killpg(process.pid, signal.SIGKILL)
    desk.end(process, -signal.SIGKILL)
    begun = {entry["trial_id"]: entry["run_dir"] for entry in desk.entries()}
    assert "finished" not in {entry["status"] for entry in desk.entries()}

    told = desk.sweep()
    assert comparable(told) == comparable(whole)
    check_tree(desk, told)
    run_ids = {row["trial_id"]: row["run_id"] for row in told["trials"]}
    assert {id_: Path(run_dir).name for id_, run_dir in begun.items() if run_dir}.items() <= (
        run_ids.items()
    )
    tag = "spire.resumed_after_round"
    resumed = [run.data.tags[tag] for run in desk.tree()[1] if tag in run.data.tags]
    assert resumed  # some trial went on from a checkpoint
    assert all(0 < int(round_idx) < NUM_ROUNDS for round_idx in resumed)


def test_an_interrupted_search_goes_on_to_the_number_of_trials(make_desk: MakeDesk) -> None:
    desk = make_desk(SEARCH)
    words = [HERE, "federation.num_rounds=100", "eval.every=0"]  # longer than Tune's grace of 5 s
    process = desk.start(*words)
    desk.wait_until(desk.is_in_the_middle, process)
    os.killpg(process.pid, signal.SIGINT)
    told = desk.end(process, 130)
    assert told["num_unfinished"] >= 1
    assert (told["num_failed"], told["num_stopped"]) == (0, 0)
    parent, children = desk.tree()
    assert parent.info.status == "KILLED"
    ended = {run.info.run_id: run.info.status for run in children}
    statuses = {"unfinished": "KILLED", "finished": "FINISHED"}  # one may end within Tune's grace
    assert ended == {row["run_id"]: statuses[row["status"]] for row in told["trials"]}
    begun = {row["trial_id"] for row in told["trials"]}

    told = desk.sweep(*words)
    assert (told["num_trials"], told["num_finished"]) == (3, 3)
    assert begun <= {row["trial_id"] for row in told["trials"]}
    check_tree(desk, told)

    assert desk.sweep(*words)["num_skipped"] == 3
    assert desk.said() == ""


def test_a_store_that_does_not_answer_is_found_before_anything_starts(
    make_desk: MakeDesk,
) -> None:
    desk = make_desk(GRID)
    desk.env["MLFLOW_TRACKING_URI"] = "http://127.0.0.1:9"
    began = time.monotonic()
    desk.sweep(expect=2)
    assert time.monotonic() - began < 30
    [sentence] = desk.said().splitlines()
    assert "expected an MLflow store at http://127.0.0.1:9" in sentence
    assert {path.name for path in desk.folder.iterdir()} == {"study.yaml", "stderr.txt"}


def test_what_can_never_fit_is_refused_before_anything_starts(make_desk: MakeDesk) -> None:
    desk = make_desk(GRID)
    desk.sweep("resources.num_gpus=0.5", "resources.num_actors=3", expect=2)
    sentence = desk.said().splitlines()[-1]
    assert sentence.startswith("spire sweep: expected client actors that fit")
    assert "Traceback" not in desk.said()
    assert not list(desk.folder.glob("runs/*"))
    assert not list(desk.folder.glob("studies/*"))
    client = desk.client()
    assert client.get_experiment_by_name("study") is None
