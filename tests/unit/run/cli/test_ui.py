"""Where `spire open` leads: to the trials of a sweep, or to a run."""

import json
import shutil
import urllib.request
from pathlib import Path

import pytest

from pipeline.cli import ui
from pipeline.cli.main import main
from pipeline.config.load import load_config
from pipeline.config.tracking import TrackingConfig
from pipeline.tracking.tracker import Tracker


def begun(tracking: TrackingConfig, kind: str) -> Tracker:
    with Tracker.start(tracking, kind, {}, kind=kind) as tracker:  # type: ignore[arg-type]
        tracker.log_dict({"metric": "final/kid", "mode": "min"}, "config/sweep.yaml")
    return tracker


@pytest.fixture
def words(tmp_path: Path, new_database: Path) -> list[str]:
    shutil.copy(new_database, tmp_path)
    return [f"tracking.root={tmp_path}", f"tracking.uri=sqlite:///{tmp_path}/mlflow.db"]


def test_a_sweeps_trials_are_charted_the_best_first_and_a_run_has_its_page(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tracking = load_config(None, words).tracking
    sweep, run = begun(tracking, "sweep"), begun(tracking, "run")
    monkeypatch.setattr(ui, "SERVERS", ("sqlite",))  # as if it were served already
    assert main(["open", "--json", *words]) == 0
    address = json.loads(capsys.readouterr().out)["address"]
    assert "/runs?workflowType=machine_learning&searchFilter=" in address
    assert f"%27{sweep.run_id}%27&orderByKey=metrics.%60final%2Fkid%60&orderByAsc=true" in address
    assert main(["open", "--json", "run", *words]) == 0
    assert f"/runs/{run.run_id}?" in json.loads(capsys.readouterr().out)["address"]


@pytest.mark.slow
def test_the_page_is_served_until_an_interrupt(
    words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    begun(load_config(None, words).tracking, "sweep")
    pages = list[bytes]()

    def look(text: str) -> None:
        pages.append(urllib.request.urlopen(text.partition("#")[0]).read())
        raise KeyboardInterrupt

    monkeypatch.setattr("pipeline.cli.main.say", look)
    assert main(["open", *words]) == 130
    assert b"MLflow" in pages[0]
