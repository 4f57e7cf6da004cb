"""The record of a run: how it is found, what a resume may change, and runs of other formats."""

import json
import os
from pathlib import Path

import pytest

from pipeline.cli.main import main
from pipeline.config.load import load_config
from pipeline.config.schema import Config
from pipeline.config.tracking import TrackingConfig
from pipeline.files.atomic import FORMAT, DamagedError
from pipeline.runs.layout import RECORD
from pipeline.runs.record import (
    check_same,
    has_begun,
    load_resumed,
    load_start,
    make_run_dir,
    make_runs_folder,
    read_record,
    run_folders,
    save_start,
    update_record,
)
from spire_core.errors import ConfigError, FormatError, RunError

RUN_ID = "a" * 32


def begun(root: Path, config: Config, uri: str | None = None) -> Path:
    make_runs_folder(tracking := TrackingConfig(root=str(root)))
    run_dir = make_run_dir(tracking, RUN_ID, "first", uri)
    save_start(run_dir, config, "smoke", {"data_sha256": "0"})
    return run_dir


def test_a_record_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power cut leaves no empty record beside checkpoints that are whole."""
    config, synced = TrackingConfig(root=str(tmp_path)), list[bool]()
    make_runs_folder(config)
    path = tmp_path / "runs" / RUN_ID / RECORD
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(path.exists()))
    run_dir = make_run_dir(config, RUN_ID, "name", None)
    assert synced == [False]
    assert read_record(run_dir)["run_name"] == "name"
    assert [file.name for file in run_dir.iterdir()] == [RECORD]


def test_the_start_of_a_run_joins_its_record_and_stays_in_it(tmp_path: Path) -> None:
    make_runs_folder(tracking := TrackingConfig(root=str(tmp_path)))
    run_dir = make_run_dir(tracking, RUN_ID, "first", None)
    assert not has_begun(run_dir)
    check_same(run_dir, {"data_sha256": "1"})  # it has read no data
    with pytest.raises(DamagedError, match="got no 'config': start a new run"):
        load_start(run_dir)
    config = load_config("smoke", ["seed=7"])
    save_start(run_dir, config, "smoke", {"data_sha256": "0"})
    update_record(run_dir, uri="sqlite:///other.db")
    assert has_begun(run_dir)
    assert read_record(run_dir)["uri"] == "sqlite:///other.db"
    assert read_record(run_dir)["run_name"] == "first"
    assert (load_start(run_dir)[0].seed, load_start(run_dir)[1]) == (7, "smoke")
    check_same(run_dir, {"data_sha256": "0"})
    with pytest.raises(RunError, match=r"expected the images .* \(by their data_sha256\)"):
        check_same(run_dir, {"data_sha256": "1"})


@pytest.mark.parametrize("content", ["{", "[]", "{}"])
def test_a_damaged_record_is_named_and_hides_no_other(
    content: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run_dir = begun(tmp_path, load_config("smoke"))
    tracking = TrackingConfig(root=str(tmp_path))
    other = make_run_dir(tracking, "b" * 32, "other", None)
    (run_dir / RECORD).write_text(content)
    with pytest.raises(DamagedError, match=rf"expected a run's record in .*{RECORD}, got"):
        read_record(run_dir)
    assert run_folders(tracking) == [other]
    assert "a run is passed over" in caplog.text


def test_a_run_of_another_format_gets_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def told() -> str:
        assert main(["resume", RUN_ID, f"tracking.root={tmp_path}"]) == 2
        return capsys.readouterr().err.strip().splitlines()[-1]

    run_dir = begun(tmp_path, load_config("smoke"))
    update_record(run_dir, run_format=FORMAT + 1)
    with pytest.raises(FormatError, match=f"got format {FORMAT + 1}, of a newer version: use that"):
        load_start(run_dir)
    assert told().startswith(f"spire resume: expected a file of format {FORMAT} in {run_dir}")
    (run_dir / RECORD).rename(run_dir / "tracking.json")
    (run_dir / "tracking.json").write_text(json.dumps({"run_format": 2}))
    expected = f"expected a run of format {FORMAT} in {run_dir}, got one of an earlier version: "
    assert (
        told()
        == f"spire resume: {expected}use that version, or start a new run (nothing was deleted)"
    )


@pytest.mark.parametrize(
    ("name", "began", "other"), [("experiment", "spire", "mine"), ("run_name", "null", "mine")]
)
def test_the_name_of_a_runs_record_stays(name: str, began: str, other: str, tmp_path: Path) -> None:
    run_dir = begun(tmp_path, load_config("smoke"))
    expected = f"expected tracking.{name}={began}, with which the run began, got {other}: "
    with pytest.raises(ConfigError, match=expected):
        load_start(run_dir, overrides=[f"tracking.{name}={other}"])
    load_start(run_dir, overrides=[f"tracking.{name}={began}"])


@pytest.mark.parametrize(
    "words",
    [
        ["tracking.uri=http://127.0.0.1:5000"],
        ["tracking.enabled=true"],
        ["tracking.enabled=true", "tracking.uri=http://127.0.0.1:5000"],
    ],
)
def test_a_run_that_began_without_a_store_gets_none(words: list[str], tmp_path: Path) -> None:
    run_dir = begun(tmp_path, load_config("smoke", ["tracking.enabled=false"]), None)
    given = load_config(None, words).tracking
    key = words[-1].partition("=")[0]
    sentence = rf"no store for run a+, which began with .*=false, got {key}: leave it out"
    with pytest.raises(ConfigError, match=sentence):
        load_resumed(run_dir, given, words)
    assert not load_resumed(run_dir, given, ["tracking.enabled=false"])[0].tracking.enabled
    assert not load_resumed(run_dir, given, [])[0].tracking.enabled


def test_checkpoints_go_where_the_user_says_alone(tmp_path: Path) -> None:
    words = ["tracking.storage=s3://KEY:s3cret@bucket/x", "resources.num_actors=2"]
    run_dir = begun(tmp_path, load_config("smoke", words), "sqlite:///a.db")

    def storage(*words: str) -> str | None:
        given = load_config(None, words).tracking
        return load_resumed(run_dir, given, words)[0].tracking.storage

    with pytest.raises(RunError) as raised:
        storage()
    assert "add 'tracking.storage=s3://KEY:***@bucket/x' to go on there, or" in str(raised.value)
    assert storage("tracking.storage=null", "resources.pool=local") is None
    assert storage("tracking.storage=gs://other") == "gs://other"
    given = TrackingConfig(storage="s3://bucket/x")  # of `spire resume s3://bucket/x/RUN_ID`
    assert load_resumed(run_dir, given, [])[0].tracking.storage == "s3://bucket/x"
