"""Files of another format are refused with one sentence, and kept."""

import json
from pathlib import Path

import numpy as np
import pytest

from pipeline.cli.main import main
from pipeline.config.load import load_config
from pipeline.config.tracking import TrackingConfig
from pipeline.files.damage import DamagedError
from pipeline.files.run_format import FORMAT
from pipeline.inference.saved_run import SavedRun
from pipeline.runs.model_files import save_run
from pipeline.runs.record import make_run_dir, make_runs_folder, read_record, run_folders
from pipeline.runs.start import check_same, load_start, save_start
from spire_core.errors import FormatError
from spire_core.network.flat_model import FlatModel

RUN_ID = "a" * 32


def renumber(path: Path, number: object) -> None:
    """Give a JSON file another format."""
    path.write_text(json.dumps(json.loads(path.read_text()) | {"run_format": number}))


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    make_runs_folder(tracking := TrackingConfig(root=str(tmp_path), enabled=False))
    run_dir = make_run_dir(tracking, RUN_ID, "n", None)
    save_start(run_dir, load_config("smoke"), "smoke", {"data_sha256": "0"})
    return run_dir


@pytest.mark.parametrize(("number", "age"), [(1, "an earlier"), (FORMAT + 1, "a newer")])
def test_a_record_of_another_format_is_refused_and_hides_no_other(
    number: int,
    age: str,
    run_dir: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    tracking = TrackingConfig(root=str(run_dir.parent.parent), enabled=False)
    other = make_run_dir(tracking, "b" * 32, "other", None)
    renumber(run_dir / "tracking.json", number)
    with pytest.raises(FormatError, match=f"got format {number}, of {age} version: use that"):
        read_record(run_dir)
    assert run_folders(tracking) == [other]
    assert f"got format {number}" in caplog.text
    assert main(["resume", RUN_ID, f"tracking.root={run_dir.parent.parent}"]) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith(f"spire resume: expected a file of format {FORMAT} in ")


def test_a_start_of_another_format_is_refused(run_dir: Path) -> None:
    renumber(run_dir / "config.json", 1)
    with pytest.raises(FormatError, match=r"config\.json, got format 1"):
        load_start(run_dir)
    with pytest.raises(FormatError):
        check_same(run_dir, {})


def test_a_model_of_a_newer_format_is_refused(tmp_path: Path) -> None:
    config = load_config("smoke")
    model = FlatModel(config.model, config.method, 1)
    more = {"image_shape": [1, 16, 16], "class_names": ["a"]}
    save_run(tmp_path, config, model, np.zeros(model.layout.size, np.float32), more)
    SavedRun.load(tmp_path)
    renumber(tmp_path / "config.json", 7)
    with pytest.raises(FormatError, match="got format 7"):
        SavedRun.load(tmp_path)


@pytest.mark.parametrize("number", [0, -1, "x", []])
def test_a_number_that_is_none_is_damage(number: object, run_dir: Path) -> None:
    renumber(run_dir / "tracking.json", number)
    with pytest.raises(DamagedError):
        read_record(run_dir)
