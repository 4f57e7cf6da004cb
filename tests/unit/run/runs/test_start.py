"""The start of a run: what `spire resume` may not change, since nothing would read it."""

import json
from pathlib import Path

import pytest

from pipeline.config.load import load_config
from pipeline.config.tracking import TrackingConfig
from pipeline.runs.record import make_run_dir, make_runs_folder
from pipeline.runs.start import load_start
from spire_core.errors import ConfigError


@pytest.mark.parametrize(
    ("name", "began", "other"), [("experiment", "spire", "mine"), ("run_name", "null", "mine")]
)
def test_the_name_of_a_runs_record_stays(name: str, began: str, other: str, tmp_path: Path) -> None:
    stored = {"preset": "smoke", "config": load_config("smoke").as_dict()}
    make_runs_folder(tracking := TrackingConfig(root=str(tmp_path)))
    run_dir = make_run_dir(tracking, "a" * 32, "first", None)
    (run_dir / "config.json").write_text(json.dumps(stored))
    with pytest.raises(ConfigError) as raised:
        load_start(run_dir, overrides=[f"tracking.{name}={other}"])
    expected = f"expected tracking.{name}={began}, with which the run began, got {other}: "
    assert str(raised.value) == f"{expected}its record keeps it, so leave it as it is"
    load_start(run_dir, overrides=[f"tracking.{name}={began}"])
