"""Credentials in addresses are used, and stand in no file, number, message or log of a run."""

import contextlib
import io
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipeline.cli.main import main
from pipeline.config.load import load_config
from pipeline.config.tracking import TrackingConfig, ui_command
from pipeline.runs.record import (
    load_start,
    make_run_dir,
    read_record,
    save_start,
    update_record,
)
from pipeline.tracking.tracker import Tracker
from sweeps.execution.study import Study

TINY = ["resources.pool=local", "partition=iid", "partition.client_size=40"]
TINY += ["federation.num_clients=2", "federation.num_new_clients=0", "federation.cohort_size=2"]
TINY += ["federation.num_rounds=1", "federation.tau=1", "diffusion.sample_steps=1"]
TINY += ["eval.every=0", "eval.num_images=4", "eval.num_loss_images=4", "eval.kid_num_subsets=1"]
TINY += ["tracking.checkpoint_every=1", "tracking.log_model=false"]
SECRET = "s3cret"
ADDRESS = f"postgresql://me:12/{SECRET}@127.0.0.1:9/db"
RUN_ID = "0123456789abcdef" * 2


@dataclass
class Ended:
    """How a command ended; `text` is all that it printed."""

    code: int
    text: str


def spire(*words: str) -> Ended:
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.redirect_stderr(text):
        code = main(words)
    return Ended(code, text.getvalue())


def files_with_the_secret(folder: Path) -> list[Path]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return [path for path in files if SECRET.encode() in path.read_bytes()]


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs draw none here, where nobody looks at them."""
    monkeypatch.setattr(Tracker, "log_figure", lambda *_: None)


@pytest.fixture
def root(
    mnist_root: Path, new_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """The current directory, a root with a database of MLflow."""
    monkeypatch.setenv("SPIRE_DATA", str(mnist_root))
    for name in ("MLFLOW_TRACKING_URI", "SPIRE_ROOT"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "root").mkdir()
    shutil.copy(new_database, tmp_path / "root")
    monkeypatch.chdir(tmp_path / "root")
    return tmp_path / "root"


def test_the_passwords_of_addresses_stand_in_no_file_of_a_run(tmp_path: Path) -> None:
    config = TrackingConfig(root=str(tmp_path), uri=ADDRESS)
    (tmp_path / "runs").mkdir()
    run_dir = make_run_dir(config, RUN_ID, "name", ADDRESS)
    words = [f"tracking.uri={ADDRESS}", f"tracking.storage=s3://A:{SECRET}@bucket/x"]
    save_start(run_dir, load_config("smoke", words), "smoke", {})
    assert files_with_the_secret(tmp_path) == []
    assert read_record(run_dir)["uri"] == "postgresql://me:***@127.0.0.1:9/db"
    assert load_start(run_dir)[0].tracking.storage == "s3://A:***@bucket/x"
    assert SECRET not in ui_command(config)


def test_a_stores_credentials_stand_in_no_message(
    root: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    address = f"http://me:{SECRET}@127.0.0.1:9"
    assert spire("run", "smoke", "--quiet", *TINY, "tracking.enabled=false").code == 0
    [run_dir] = (path.parent for path in root.glob("runs/*/run.json"))
    (run_dir / "result.json").unlink()
    config = read_record(run_dir)["config"]
    config["tracking"]["enabled"] = True
    update_record(run_dir, tracked=True, config=config)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    for verb, code in (("sync", 1), ("resume", 2)):
        ended = spire(verb, run_dir.name)
        assert ended.code == code
        assert "expected an MLflow store at http://me:***@127.0.0.1:9, got" in ended.text
        own = [one.getMessage() for one in caplog.records if one.name.startswith("pipeline")]
        assert SECRET not in "".join([ended.text, *own])  # urllib3's own log reaches no terminal
    assert files_with_the_secret(root) == []


def test_a_failed_trials_record_and_traceback_have_no_secret(tmp_path: Path) -> None:
    study = Study(tmp_path / "studies" / "a")
    study.fail("trial", f"no answer from {ADDRESS}", f"ConnectionError: {ADDRESS}")
    assert files_with_the_secret(tmp_path) == []
    assert "ConnectionError" in study.trial_file("trial", "error.txt").read_text()
