"""Where `spire open` leads: to the trials of a sweep, or to a run."""

import json
import urllib.request
from pathlib import Path

import pytest

from pipeline.cli import ui
from pipeline.cli.main import main
from pipeline.config.tracking import TrackingConfig
from pipeline.tracking.tracker import Tracker


def begun(tracking: TrackingConfig, kind: str) -> Tracker:
    with Tracker.start(tracking, kind, {}, kind=kind) as tracker:  # type: ignore[arg-type]
        tracker.log_dict({"metric": "final/kid", "mode": "min"}, "config/sweep.yaml")
    return tracker


def test_the_newest_sweep_is_served_until_an_interrupt_and_a_run_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tracking = TrackingConfig(root=str(tmp_path), uri=f"sqlite:///{tmp_path}/mlflow.db")
    sweep, _ = begun(tracking, "sweep"), begun(tracking, "run")
    words = [f"tracking.root={tmp_path}", f"tracking.uri={tracking.uri}"]
    pages = list[bytes]()

    def look(text: str) -> None:
        pages.append(urllib.request.urlopen(text.partition("#")[0]).read())
        raise KeyboardInterrupt

    monkeypatch.setattr("pipeline.cli.main.say", look)
    assert main(["open", *words]) == 130
    assert b"MLflow" in pages[0]

    monkeypatch.setattr(ui, "SERVERS", ("sqlite",))  # as if it were served already
    assert main(["open", "--json", *words]) == 0
    address = json.loads(capsys.readouterr().out)["address"]
    assert "/runs?workflowType=machine_learning&searchFilter=" in address
    assert f"%27{sweep.run_id}%27&orderByKey=metrics.%60final%2Fkid%60&orderByAsc=true" in address
    assert main(["open", "--json", "run", *words]) == 0
    assert "searchFilter" not in capsys.readouterr().out
