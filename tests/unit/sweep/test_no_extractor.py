"""`eval.extractor=none`: a run, an arrival and a report without KID, which say so once."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from pipeline.checkpoint.snapshots import load_evaluations
from pipeline.tracking.outbox import read_points
from sweeps.cli import main

TINY = ("eval.extractor=none", "resources.pool=local", "tracking.log_model=false")
TINY += ("federation.num_rounds=2", "eval.every=0", "eval.num_images=8", "eval.num_loss_images=8")
TINY += ("adapt.epochs=2", "diffusion.sample_steps=2", "federation.num_clients=96")
TINY += ("federation.cohort_size=2", "federation.tau=1", "eval.num_clients=4")
NO_KID = "no KID, which needs features: eval.extractor=none"


@pytest.fixture(autouse=True)
def here(
    mnist_root: Path, new_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPIRE_ROOT", str(tmp_path))
    monkeypatch.setenv("SPIRE_DATA", str(mnist_root))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copy(new_database, tmp_path)


@pytest.mark.slow
def test_nothing_of_a_run_needs_features(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("method=fedavg_ft", "adapt.tune_epochs=1", "--json")
    assert main(["run", "smoke", *TINY, *words]) == 0
    told = capsys.readouterr()
    assert "nan" not in told.out + told.err
    assert "round 2: held-out own" in told.err
    result: dict[str, Any] = json.loads(told.out)
    assert all(value is not None for value in result["metrics"].values())
    run_dir = Path(result["artifacts"]["run_dir"])
    names = {name for _, metrics in read_points(run_dir) for name in metrics} | {*result["metrics"]}
    assert [name for name in names if re.search("kid|forgetting|tv_[ab]", name)] == []
    assert {"pretrain/heldout/own", "adapt/heldout/mean", "final/adapt_nn_test"} <= names
    scores = [score.is_known for e in load_evaluations(run_dir, 2) for score in e.scores]
    assert scores == [False] * 8
    arrival = ("--data", "mnist", "--num-images", "16", "adapt.epochs=1")
    assert main(["adapt", str(run_dir), *arrival]) == 0
    assert "nan" not in capsys.readouterr().out
    assert main(["report", run_dir.name, "--json"]) == 0
    page = Path(json.loads(capsys.readouterr().out)["artifacts"]["html"]).read_text()
    assert page.count(NO_KID) == 1
