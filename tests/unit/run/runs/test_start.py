"""The start of a run: what `spire resume` may not change, since nothing would read it."""

import json
from pathlib import Path

import pytest

from pipeline.config.load import load_config
from pipeline.config.schema import Config
from pipeline.config.tracking import TrackingConfig
from pipeline.runs.record import make_run_dir, make_runs_folder
from pipeline.runs.start import load_resumed, load_start, save_start
from spire_core.errors import ConfigError, RunError


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


def begun(root: Path, config: Config, uri: str | None) -> Path:
    make_runs_folder(tracking := TrackingConfig(root=str(root)))
    run_dir = make_run_dir(tracking, "a" * 32, "first", uri)
    save_start(run_dir, config, "smoke", {})
    return run_dir


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


def test_a_run_goes_on_with_settings_that_count_alone(tmp_path: Path) -> None:
    run_dir = begun(tmp_path, load_config("smoke", ["resources.num_actors=2"]), "sqlite:///a.db")
    given = TrackingConfig(root=str(tmp_path))
    words = ["resources.pool=local"]  # the actors of its beginning do not matter
    config, preset = load_resumed(run_dir, given, words)
    assert (config.resources.pool, preset) == ("local", "smoke")
    load_resumed(run_dir, given, ["tracking.enabled=false"])


def test_checkpoints_go_where_the_user_says_alone(tmp_path: Path) -> None:
    words = ["tracking.storage=s3://KEY:s3cret@bucket/x"]
    run_dir = begun(tmp_path, load_config("smoke", words), "sqlite:///a.db")

    def storage(*words: str) -> str | None:
        given = load_config(None, words).tracking
        return load_resumed(run_dir, given, words)[0].tracking.storage

    with pytest.raises(RunError) as raised:
        storage()
    assert "add 'tracking.storage=s3://KEY:***@bucket/x' to go on there, or" in str(raised.value)
    assert storage("tracking.storage=null") is None
    assert storage("tracking.storage=gs://other") == "gs://other"
    given = TrackingConfig(storage="s3://bucket/x")  # of `spire resume s3://bucket/x/RUN_ID`
    assert load_resumed(run_dir, given, [])[0].tracking.storage == "s3://bucket/x"
