"""Mistakes that people type: one line that names what is wrong, and exit code 2."""

import shlex
from pathlib import Path

import pytest

from sweeps import cli

MISTAKES = {  # what is typed, and what the answer names
    "": "missing command",
    "rum smoke": "'run'",
    "run mnits-cpu": "did you mean mnist-cpu",
    "run smoke other": "smoke and other",
    "run smoke --fast": "--fast",
    "run smoke --seed 3": "such as seed=VALUE",
    "run --preset smoke": "a preset as a word",
    "run smoke --client.lr=0.1": "write a setting as key=value",
    "run smoke client.lr 0.1": "client.lr",
    "run smoke clint.lr=1": "clint",
    "run smoke client.lr=abc": "client.lr",
    "run smoke client.lr=": "client.lr",
    "run smoke federation.cohort_size=50": "federation.cohort_size",
    "run smoke client.lrr=1 model.d_emb=big federation.cohort_size=9": "3 settings are wrong",
    "run smoke federation.cohort_size=9 federation.num_clients=8": "(8), got 9",
    "run smoke data=cifar10 data.image_size=30 data.root=.": "data.image_size divisible by 4",
    "run smoke data=fonts partition=natural partition.new_clients=[a]": "run: expected federation.",
    "run smoke data.root=nowhere": "data.root",
    "run smoke --dry-run tracking.uri=http://127.0.0.1:9": "an MLflow store at http://127.0.0.1:9",
    "run smoke federation.tau=1 federation.local_epochs=1": "federation.tau",
    "run smoke method=spyre": "spire",
    "run smoke data=mnits": "mnist",
    "run smoke data=folder": "data.path",
    "run smoke data.path=photos": "data.path",
    "run folder-cpu data.path=nowhere": "data.path",
    "run smoke partition.classes_per_client=11": "partition.classes_per_client",
    "run smoke privacy.adapt.epsilon=": "privacy.adapt.epsilon",
    "run smoke method=retrofit": "model.backbone",
    "run smoke resources.num_actors=100000": "resources.num_actors",
    "data fetch minst": "did you mean mnist",
    "data show smoke partition.min_size=60000": "60000",
    "sweep smokee": "smoke",
    "sweep typo.yaml": "axis",
    "report nobody": "tracking.root",
    "resume nobody": "nobody",
    "resume nobody client.lr=1": "client.lr=1",
    "sample nobody": "nobody",
    "sample last --num 0": "--num",
    "adapt nobody --data mnist": "nobody",
    "adapt last": "--data",
    "try nowhere": "nowhere",
    "theory theorm": "theorem",
}


@pytest.mark.parametrize("typed", MISTAKES)
def test_a_mistake_is_one_line_that_names_it(
    typed: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    mnist_root: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SPIRE_ROOT", str(tmp_path))
    monkeypatch.setenv("SPIRE_DATA", str(mnist_root))
    Path("typo.yaml").write_text("axis: {client.lr: [1, 2]}\n")
    words = shlex.split(typed)
    if words[:1] == ["run"]:
        words.append("--dry-run")  # finds what a run finds, without Ray
    code = cli.main(words)
    said = capsys.readouterr()
    assert code == 2
    assert said.out == ""
    assert said.err.count("\n") == 1, said.err
    assert MISTAKES[typed].lower() in said.err.lower()


def test_doctor_says_that_an_address_is_none(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("SPIRE_DATA", str(tmp_path))
    for address in ("http://host:port", "http://me:hunter2@127.0.0.1:9"):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        assert cli.main(["doctor"]) == 0
        said = capsys.readouterr().out
        shown = address.replace("hunter2", "***")
        assert f"- {shown}: expected an MLflow store at {shown}, got" in said
        assert "hunter2" not in said
