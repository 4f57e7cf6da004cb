"""What a user types, on real MNIST, Ray and MLflow: one run, and all that can be done with it.

The run is a process of its own; what is done with it afterwards is typed in this one. It begins as
docs/first-hour.md does, whose commands all are typed here.
"""

import contextlib
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file

from sweeps.cli import main

PAGE = Path(__file__).parents[2] / "docs" / "first-hour.md"
NOT_RUN = "not run by the tests"
FIRST = ("run", "smoke")
SMALLER = ("resources.num_actors=1", "federation.num_rounds=6", "eval.every=3")
PACKAGES = ("pipeline", "sweeps", "spire_core", "torch")
NOT_INHERITED = ("MLFLOW_TRACKING_URI", "RAY_ADDRESS", "SPIRE_ROOT")


@dataclass
class Desk:
    """A working folder in which commands are typed."""

    folder: Path
    env: dict[str, str]

    def process(self, *words: str) -> str:
        """Type a command as a process and return what it prints."""
        done = subprocess.run(
            [str(Path(sys.executable).with_name("spire")), *words],
            cwd=self.folder,
            env=self.env,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    def spire(self, *words: str, expect: int = 0) -> tuple[str, str]:
        """Type a command in this process; return what it prints and what it says."""
        out, err = io.StringIO(), io.StringIO()
        with pytest.MonkeyPatch.context() as patch, contextlib.chdir(self.folder):
            for name in NOT_INHERITED:
                patch.delenv(name, raising=False)
            patch.setenv("SPIRE_DATA", self.env["SPIRE_DATA"])
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                code = main(words)
        assert code == expect, err.getvalue()
        return out.getvalue(), err.getvalue()


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory, mnist_root: Path, new_database: Path) -> Desk:
    env = {k: v for k, v in os.environ.items() if k not in NOT_INHERITED}
    desk = Desk(tmp_path_factory.mktemp("desk"), env | {"SPIRE_DATA": str(mnist_root)})
    shutil.copy(new_database, desk.folder)
    return desk


@pytest.fixture(scope="module")
def told(desk: Desk) -> dict[str, Any]:
    """The one JSON object of a finished smoke run; files in its folder have its packages' names."""
    mark = f"open({str(desk.folder / 'was_run')!r}, 'w').close()\n"
    decoys = [desk.folder / f"{name}.py" for name in PACKAGES]
    for decoy in decoys:
        decoy.write_text(mark)
    told = json.loads(desk.process(*FIRST, *SMALLER, "--json"))
    for decoy in decoys:
        decoy.unlink()
    return told


def test_run_prints_one_object(told: dict[str, Any], desk: Desk) -> None:
    assert not (desk.folder / "was_run").exists()  # neither by the command nor by its actors
    promised = {"run_id", "method", "preset", "seed", "metrics", "params_total"}
    promised |= {"params_trainable_new_client", "config_fingerprint", "state_fingerprint"}
    promised |= {"artifacts"}
    assert promised <= told.keys()
    assert (told["method"], told["preset"], told["seed"]) == ("spire", "smoke", 0)
    assert told["params_trainable_new_client"] == 16
    assert all(isinstance(v, float | int) for v in told["metrics"].values())
    assert told["metrics"]["final/pretrain_kid_mean"] > told["metrics"]["final/pretrain_kid_floor"]
    assert (desk.folder / "runs" / told["name"] / "model").is_dir()


def test_a_client_arrives_later_and_is_drawn(told: dict[str, Any], desk: Desk) -> None:
    words = ("adapt", told["run_id"], "--data", "mnist", "--classes", "3", "--num-images", "32")
    said = json.loads(desk.spire(*words, "adapt.epochs=2", "--json")[0])
    assert said["client_id"] == 8  # 0..5 pre-trained, 6 and 7 were new
    saved = desk.folder / "runs" / told["name"] / "model" / "clients" / "client_8.safetensors"
    assert set(load_file(saved)) == {"client_emb"}
    words = ("sample", told["run_id"], "--num", "8", "--json", "--client")
    said = json.loads(desk.spire(*words, "8")[0])
    with np.load(said["artifacts"]["npz"]) as stored:
        images = stored["images"]
    assert images.shape == (8, 1, 16, 16)
    assert np.abs(images).max() <= 1.0
    assert "got 99" in desk.spire(*words, "99", expect=2)[1]


def commands() -> list[tuple[str, ...]]:
    """The words of each command of docs/first-hour.md, in their order, after `spire`."""
    blocks = re.findall(r"```\n(.*?)```", PAGE.read_text(), re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines() if line.strip()]
    assert any(NOT_RUN in line for line in lines)
    typed = [shlex.split(line, comments=True) for line in lines if NOT_RUN not in line]
    assert {program for program, *_ in typed} == {"spire"}
    return [tuple(words) for _, *words in typed]


def test_each_command_of_the_first_hour_works(told: dict[str, Any], desk: Desk) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (200, 16, 16, 3), np.uint8)
    for i, image in enumerate(pixels):
        folder = desk.folder / "photos" / ("cat", "dog")[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{i}.png")
    first, *later = commands()
    assert first == FIRST  # the run of this file
    assert len(later) >= 4
    for words in later:
        desk.spire(*words)
    assert (desk.folder / "runs" / told["name"] / "samples" / "client_0_seed0.png").is_file()


# MLflow's own warning:
@pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType:UserWarning")
def test_what_lies_in_the_tracking_store(
    told: dict[str, Any], desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow
    import pandas as pd

    uri = f"sqlite:///{desk.folder}/mlflow.db"
    client = mlflow.MlflowClient(uri)
    run = client.get_run(told["run_id"])
    assert run.info.status == "FINISHED"
    assert run.data.params["method.name"] == "spire"
    assert run.data.tags["state_fingerprint"] == told["state_fingerprint"]
    assert run.data.tags["extractor"] == "mnist-cnn"
    assert run.inputs.dataset_inputs[0].dataset.name == "mnist"
    losses = client.get_metric_history(told["run_id"], "pretrain/loss")
    assert [m.step for m in losses] == list(range(1, 7))
    kids = client.get_metric_history(told["run_id"], "pretrain/kid/mean")
    assert [m.step for m in kids] == [0, 3, 6]
    assert len(run.data.metrics) < 60  # more than a person reads, and the UI grows slow
    own = client.get_metric_history(told["run_id"], "forgetting/own")
    assert [m.step for m in own] == [0, 1, 2, 3, 4]
    lost = client.get_metric_history(told["run_id"], "forgetting/global")
    assert {m.value for m in lost} == {0.0}
    folders = {a.path for a in client.list_artifacts(told["run_id"])}
    assert {"config", "images", "plots", "samples", "tables"} <= folders
    plots = {a.path for a in client.list_artifacts(told["run_id"], "plots")}
    assert {"plots/forgetting.png", "plots/partition.png", "plots/cross_client.png"} <= plots
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.chdir(desk.folder)
    models = client.search_logged_models([run.info.experiment_id])
    model = mlflow.pyfunc.load_model(f"models:/{models[0].model_id}")
    drawn = model.predict(pd.DataFrame({"client_id": [7]}), params={"num_images": 3, "seed": 1})
    assert np.asarray(drawn).shape == (3, 1, 16, 16)


@pytest.mark.slow
def test_doctor_checks_the_metrics(desk: Desk, mnist_root: Path, tmp_path: Path) -> None:
    beside, file = (
        replace(desk, env=desk.env | {"SPIRE_DATA": str(tmp_path)}),
        tmp_path / "mnist.npz",
    )
    file.symlink_to(mnist_root / "mnist.npz")
    said = json.loads(beside.spire("doctor", "--metrics", "--json")[0])
    [test] = [test for test in said["selftests"] if test["ok"]]
    limit = test["floor"] + 5 * test["floor_std"]
    assert test["real_kid"] < limit < min(test["wrong_class_kid"], test["noise_kid"])
    assert 0.95 < test["accuracy"] <= 1
    content = file.read_bytes()
    file.unlink()
    file.write_bytes(content[:-100])
    said = beside.spire("doctor", "--metrics", expect=1)[0]
    assert f"- mnist: the stored file {file} is damaged" in said
