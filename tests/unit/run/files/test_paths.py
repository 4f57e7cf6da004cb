"""In a Ray job nothing is written where Ray deletes it; passwords are not shown."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import make_url

from pipeline.config.load import load_config
from pipeline.config.tracking import (
    TrackingConfig,
    sqlite_path,
    tracking_root,
    tracking_uri,
)
from pipeline.data.datasets import store_root
from pipeline.files.paths import JOB_MARK, base_folder, lasting, mask
from pipeline.runs.record import located
from spire_core.errors import ConfigError


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An own home and current directory, and no variable that says where files go."""
    for name in ("SPIRE_DATA", "SPIRE_ROOT", "MLFLOW_TRACKING_URI", JOB_MARK):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "copy").mkdir()
    monkeypatch.chdir(tmp_path / "copy")
    return tmp_path / "home"


def test_a_runs_paths_mean_the_same_in_every_directory(home: Path) -> None:
    words = ["data.path=~/photos", "eval.extractor_weights=w.pth", "data.root=sets"]
    config = located(load_config("smoke", words))
    assert config.data.path == str(home / "photos")
    assert config.data.root == str(Path.cwd() / "sets")
    assert located(load_config("smoke")).data.root is None  # each machine's own store
    assert config.eval.extractor_weights == str(Path.cwd() / "w.pth")


def test_a_database_lies_in_its_folder_or_nowhere(tmp_path: Path) -> None:
    odd = tmp_path / "a b#c%;d\u00e9"
    assert make_url(tracking_uri(TrackingConfig(root=str(odd)))).database == f"{odd}/mlflow.db"
    assert tracking_uri(TrackingConfig(root=str(odd))) == f"sqlite:///{odd}/mlflow.db"
    uri = f"sqlite:///{tmp_path}/other.db?timeout=5"
    assert tracking_uri(TrackingConfig(uri=uri)) == uri
    assert sqlite_path(uri) == tmp_path / "other.db"
    assert tracking_uri(TrackingConfig(uri="sqlite:///x.db?a=1")).endswith("copy/x.db?a=1")


@pytest.fixture
def in_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(JOB_MARK, "{}")


def test_in_a_job_files_go_home(home: Path, in_job: None) -> None:
    assert tracking_root(TrackingConfig()) == home / "spire"
    assert tracking_uri(TrackingConfig()) == f"sqlite:///{home}/spire/mlflow.db"
    assert tracking_uri(TrackingConfig(uri="sqlite:///a.db")) == f"sqlite:///{home}/spire/a.db"
    assert store_root() == home / "spire" / "data"
    assert tracking_root(TrackingConfig(root="~/mine")) == home / "mine"
    assert not home.exists()  # naming a folder does not make it


def test_a_relative_path_is_refused_in_a_job(in_job: None, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"tracking\.root as an absolute path .* got 'out'"):
        tracking_root(TrackingConfig(root="out"))
    with pytest.raises(ConfigError, match=r"data\.root as an absolute path"):
        store_root("data")
    monkeypatch.setenv("SPIRE_ROOT", "out")
    with pytest.raises(ConfigError, match="SPIRE_ROOT as an absolute path"):
        base_folder()
    with pytest.raises(ConfigError, match=r"data\.path as an absolute path"):
        located(load_config("smoke", ["data.path=photos"]))
    assert lasting("/somewhere") == Path("/somewhere")
    assert list(Path.cwd().iterdir()) == []


WAITING = """
import time
from pipeline.cli.main import main
from pipeline.data import fetch

def wait(*words, **settings):
    print("waiting", flush=True)
    time.sleep(600)

fetch.fetch = wait
raise SystemExit(main(["data", "fetch", "mnist"]))
"""


def test_a_job_hears_sigint_though_its_head_ignores_it() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", WAITING],
        cwd=Path(__file__).parents[4],
        env=os.environ | {JOB_MARK: "{}"},
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
    ) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "waiting\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=240) == 130


# --- passwords are not shown, and what holds none stays readable ---


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://me:s3cret@host:5000/a", "http://me:***@host:5000/a"),
        ("http://me:p@s3cret@host/a", "http://me:***@host/a"),
        ("s3://KEY:s3cret@bucket/folder?region=x", "s3://KEY:***@bucket/folder?region=x"),
        ("postgresql://u:12/s3cret@h/db", "postgresql://u:***@h/db"),
        ("pg://u:p@h/d and http://:t@h", "pg://u:***@h/d and http://:***@h"),
        ("got 'privacy.noise_key=s3cret'", "got 'privacy.noise_key=***'"),
        ('privacy.noise_key="a s3cret" seed=1', "privacy.noise_key=*** seed=1"),
    ],
)
def test_a_password_is_masked(text: str, shown: str) -> None:
    assert mask(f"expected {text}, got none") == f"expected {shown}, got none"
    assert mask(shown) == shown
    assert json.loads(mask(json.dumps({"a": [text], "b": 1}))) == {"a": [shown], "b": 1}
