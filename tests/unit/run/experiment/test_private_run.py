"""A run with private new clients: its promise, its key, and the same result after any kill."""

import base64
import itertools
import logging
import pickle
import shutil
import stat
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from safetensors import safe_open
from small_runs import Crash, Crasher, crashed, finished, small
from torch import equal

from pipeline.cli.main import main
from pipeline.clients.store import ClientStore
from pipeline.config.meaning import fingerprint
from pipeline.config.schema import Config
from pipeline.config.tracking import TrackingConfig
from pipeline.experiment import run
from pipeline.experiment.run import resume_experiment, run_experiment
from pipeline.experiment.watcher import Watcher
from pipeline.federation.pool import LocalClientPool
from pipeline.files.atomic import write_json
from pipeline.results.result import Result
from pipeline.runs.layout import CLIENTS, MODEL, NOISE_DEVICE, NOISE_KEY, RESULT
from pipeline.runs.model_files import client_path
from pipeline.runs.record import load_start, make_run_dir
from spire_core.errors import RunError
from spire_core.privacy.noise import key_of

GIVEN = "n0ise-key-of-a-test"


def private(mnist_root: Path, root: Path, *overrides: str) -> Config:
    words = ["federation.cohort_size=2", "tracking.checkpoint_every=1", "tracking.log_model=false"]
    words += ["adapt.num_images=8", "adapt.group_size=1"]
    words += ["privacy.adapt.epsilon=4", "privacy.adapt.steps=3", "privacy.adapt.draws=2"]
    return small(mnist_root, root, *words, *overrides)


def check_promise(found: Result, mechanism: str, source: str) -> None:
    assert found.metrics["privacy/epsilon"] == pytest.approx(4.0, abs=1e-6)
    for client_id in found.setting.new_ids:
        with safe_open(client_path(found.run_dir / MODEL, client_id), "pt") as file:
            header = file.metadata()
        assert header["privacy.dp"] == source
        assert header["privacy.mechanism"] == mechanism
        assert header["privacy.unit"] == "one image"
        assert float(header["privacy.epsilon"]) == pytest.approx(4.0, abs=1e-6)
        assert float(header["privacy.delta"]) == 1 / 80


@pytest.mark.parametrize(
    ("method", "mechanism", "clip"),
    [
        pytest.param("spire", "one_release", "null", marks=pytest.mark.slow),
        ("spire model.num_embs=2", "dp_sgd", "null"),
        pytest.param("shared_rep", "dp_sgd", "0.1", marks=pytest.mark.slow),
    ],
)
def test_a_killed_run_goes_on_with_its_key_to_the_same_result(
    method: str, mechanism: str, clip: str, mnist_root: Path, tmp_path: Path
) -> None:
    more = [*f"method={method}".split(), f"privacy.adapt.mechanism={mechanism}"]
    more += [f"privacy.adapt.clip_norm={clip}", "method.local_layers=[conv_out]"]
    config = private(mnist_root, tmp_path, f"privacy.noise_key={GIVEN}", *more)
    run_dir = crashed(config, "pretrained")
    assert stat.S_IMODE((run_dir / NOISE_KEY).stat().st_mode) == 0o600
    expected = finished(config, run_dir)
    stored, _ = load_start(run_dir)
    assert fingerprint(stored) == fingerprint(config)
    result = resume_experiment(run_dir, stored, Watcher())
    assert result.state_fingerprint == expected.state_fingerprint
    assert not (run_dir / NOISE_KEY).exists()
    check_promise(expected, mechanism, "simulated")
    assert "partition_hash" not in (result.run_dir / MODEL / "config.json").read_text()


def test_a_run_that_is_killed_after_it_published_publishes_the_same_again(
    mnist_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a fresh key: its noise is spent once, whatever happens to the process."""

    def crash(*_: Any) -> None:
        raise Crash

    config, watching = private(mnist_root, tmp_path), Crasher()
    with monkeypatch.context() as patched:
        patched.setattr(run, "export_models", crash)
        with pytest.raises(Crash):
            run_experiment(config, "smoke", watching)
    store = ClientStore(watching.run_dir / CLIENTS)
    before = {c: store.load(c) for c in (6, 7)}
    for client_id in (6, 7):
        store.path(client_id, 0).unlink()
    unfinished = watching.run_dir / MODEL / "clients" / "a1.part"
    unfinished.parent.mkdir(parents=True)
    unfinished.write_bytes(b"a client's own")
    result = resume_experiment(watching.run_dir, load_start(watching.run_dir)[0], Watcher())
    assert result.setting.new_ids == [6, 7]
    assert not unfinished.exists()
    for client_id, state in before.items():
        again = store.load(client_id)
        assert state is not None
        assert again is not None
        assert equal(state.parts["client_emb"], again.parts["client_emb"])
    check_promise(result, "dp_sgd", "secret")


def holding(secret: bytes, folder: Path) -> list[Path]:
    """Return the files below a folder with a key in any usual form."""
    forms = (secret, secret.hex().encode(), base64.b64encode(secret), repr(secret).encode())
    files = [path for path in folder.rglob("*") if path.is_file()]
    return [path for path in files if any(form in path.read_bytes() for form in forms)]


def test_the_key_is_in_no_file_log_or_message_but_its_own(
    mnist_root: Path,
    new_database: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    root, storage = tmp_path / "root", tmp_path / "storage"
    root.mkdir()
    shutil.copy(new_database, root)
    words = [f"privacy.noise_key={GIVEN}", "tracking.enabled=true"]
    config = private(mnist_root, root, f"tracking.storage=file://{storage}", *words)
    sent, run_all = list[bytes](), LocalClientPool.run_all

    def listen(pool: LocalClientPool, task: str, units: Any, *args: Any, **more: Any) -> list[Any]:
        results = run_all(pool, task, units, *args, **more)
        sent.append(pickle.dumps((task, units, args, more, results, pool.worker.setup)))
        return results

    monkeypatch.setattr(LocalClientPool, "run_all", listen)
    secrets = [key_of(GIVEN), GIVEN.encode()]
    with caplog.at_level(logging.DEBUG):
        run_dir = crashed(config, "pretrained")
        assert holding(secrets[0], tmp_path) == [run_dir / NOISE_KEY]
        assert not storage.exists()  # without its key the copy could not go on
        resume_experiment(run_dir, load_start(run_dir)[0], Watcher())
    assert [path for secret in secrets for path in holding(secret, tmp_path)] == []
    texts = [caplog.text.encode(), *sent]
    assert len(sent) > 5
    assert any(b"fit_" in text for text in sent)  # the names of tasks do travel
    for secret, text in itertools.product(secrets, texts):
        assert secret not in text
        assert secret.hex().encode() not in text
    tracked = MlflowClient(f"sqlite:///{root}/mlflow.db").get_run(run_dir.name).data
    assert (tracked.tags["dp"], tracked.tags["privacy.unit"]) == ("simulated", "one image")
    assert tracked.metrics["privacy/epsilon"] == pytest.approx(4.0, abs=1e-6)


def test_a_run_is_resumed_with_its_own_key_and_on_its_own_kind_of_device_alone(
    mnist_root: Path, tmp_path: Path
) -> None:
    """Elsewhere it would add the same noise to other sums."""
    run_dir = crashed(private(mnist_root, tmp_path), "pretrained")
    record, config = run_dir / NOISE_DEVICE, load_start(run_dir)[0]
    assert record.read_text() == "cpu"
    record.write_text("cuda")
    refused = r"^expected device cuda for the private noise .*, got cpu: .*where it has a GPU$"
    with pytest.raises(RunError, match=refused):
        resume_experiment(run_dir, config, Watcher())
    record.write_text("cpu")
    (run_dir / NOISE_KEY).unlink()
    with pytest.raises(RunError, match=r"^expected the noise key .*: another key would spend"):
        resume_experiment(run_dir, config, Watcher())


def test_a_key_that_a_kill_left_behind_is_deleted_by_a_resume(tmp_path: Path) -> None:
    tracking = TrackingConfig(root=str(tmp_path), enabled=False)
    run_dir = make_run_dir(tracking, "0" * 32, "name", None)
    (run_dir / NOISE_KEY).write_bytes(bytes(range(32)))
    write_json(run_dir / RESULT, {"metrics": {}})
    assert main(["resume", run_dir.name, f"tracking.root={tmp_path}"]) == 0
    assert not (run_dir / NOISE_KEY).exists()
