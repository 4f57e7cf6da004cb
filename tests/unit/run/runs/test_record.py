"""The record of a run: how it is found, what a resume may change, and runs of other formats."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.config.load import load_config
from pipeline.config.schema import Config
from pipeline.config.tracking import TrackingConfig
from pipeline.files.atomic import FORMAT, DamagedError
from pipeline.runs.layout import RECORD
from pipeline.runs.record import (
    check_same,
    find_run,
    has_begun,
    load_resumed,
    load_start,
    make_run_dir,
    new_name,
    read_record,
    run_folders,
    save_start,
    update_record,
)
from spire_core.errors import ConfigError, FormatError, RunError

RUN_ID = "a" * 32


def begun(root: Path, config: Config, uri: str | None = None) -> Path:
    tracking = TrackingConfig(root=str(root))
    run_dir = make_run_dir(tracking, RUN_ID, "first", uri)
    save_start(run_dir, config, "smoke", {"data_sha256": "0"})
    return run_dir


def test_the_start_of_a_run_joins_its_record_and_stays_in_it(tmp_path: Path) -> None:
    tracking = TrackingConfig(root=str(tmp_path))
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
    with pytest.raises(RunError, match=r"expected the code, images .* \(by their data_sha256\)"):
        check_same(run_dir, {"data_sha256": "1"})


def test_a_damaged_record_is_named_and_hides_no_other(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run_dir = begun(tmp_path, load_config("smoke"))
    tracking = TrackingConfig(root=str(tmp_path))
    other = make_run_dir(tracking, "b" * 32, "other", None)
    (run_dir / RECORD).write_text("{")
    with pytest.raises(DamagedError, match=rf"expected a run's record in .*{RECORD}, got"):
        read_record(run_dir)
    assert run_folders(tracking) == [other]
    assert "a run is passed over" in caplog.text


def test_a_run_of_another_format_is_not_read(tmp_path: Path) -> None:
    run_dir = begun(tmp_path, load_config("smoke"))
    update_record(run_dir, run_format=FORMAT + 1)
    with pytest.raises(FormatError, match=f"format {FORMAT} in .*got format {FORMAT + 1}: use"):
        load_start(run_dir)


def test_a_run_that_began_without_a_store_gets_none(tmp_path: Path) -> None:
    run_dir = begun(tmp_path, load_config("smoke", ["tracking.enabled=false"]), None)
    given = TrackingConfig()
    with pytest.raises(ConfigError, match=r"tracking\.enabled=false, with which the run in"):
        load_resumed(run_dir, given, ["tracking.enabled=true"])
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


def test_folders_of_runs_have_names_that_are_free(tmp_path: Path) -> None:
    config = TrackingConfig(root=str(tmp_path))
    names = {new_name(config) for _ in range(20)}
    assert len(names) > 10
    assert all(re.fullmatch("[a-z]+-[a-z]+", name) for name in names)
    assert new_name(replace(config, run_name="my run/1")) == "my run/1"
    made = [make_run_dir(config, run_id * 32, "my run/1", None, is_named=True) for run_id in "abc"]
    assert [folder.name for folder in made] == ["my-run-1", "my-run-1-2", "my-run-1-3"]
    for word in ("my-run-1-2", "bbb"):
        assert find_run(word, config) == made[1]
    with pytest.raises(RunError, match=r"fits 3 of them.*\(my-run-1-3, my run/1, not"):
        find_run("my run/1", config)
