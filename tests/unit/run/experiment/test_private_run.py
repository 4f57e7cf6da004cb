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
from torch import equal

from pipeline.cli.main import main
from pipeline.clients.store import ClientStore
from pipeline.config.load import load_config
from pipeline.config.meaning import fingerprint
from pipeline.config.schema import Config
from pipeline.config.tracking import TrackingConfig
from pipeline.experiment import run
from pipeline.experiment.run import resume_experiment, run_experiment
from pipeline.experiment.watcher import Watcher
from pipeline.federation.pool import LocalClientPool
from pipeline.files.atomic import write_json
from pipeline.results.recording import run_tags
from pipeline.results.result import Result
from pipeline.runs import noise_key
from pipeline.runs.layout import CLIENTS, MODEL, NOISE_DEVICE, NOISE_KEY, RESULT
from pipeline.runs.model_files import client_path
from pipeline.runs.record import load_start, make_run_dir
from spire_core.errors import ConfigError, RunError
from spire_core.privacy.noise import key_of

GIVEN = "n0ise-key-of-a-test"
FRESH = bytes(range(100, 132))


class Crash(Exception):
    """What a test ends a run with."""


class Watching(Watcher):
    """Remembers the run's folder; ends the run when pre-training is over, if it is told to."""

    def __init__(self, crashes: bool = False) -> None:
        self.crashes, self.run_dir, self.mode = crashes, Path(), 0

    def started(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self.mode = stat.S_IMODE((run_dir / NOISE_KEY).stat().st_mode)

    def pretrained(self, run_dir: Path) -> None:
        if self.crashes:
            raise Crash


def config_for(mnist_root: Path, root: Path, *overrides: str) -> Config:
    words = [f"data.root={mnist_root}", f"tracking.root={root}", "tracking.enabled=false"]
    words += ["resources.pool=local", "federation.num_rounds=2", "federation.cohort_size=2"]
    words += ["tracking.checkpoint_every=1", "tracking.log_model=false"]
    words += ["eval.every=0", "eval.num_images=8", "eval.num_loss_images=8", "eval.num_clients=2"]
    words += ["diffusion.sample_steps=2", "adapt.num_images=8", "adapt.group_size=1"]
    words += ["privacy.adapt.epsilon=4", "privacy.adapt.steps=3", "privacy.adapt.draws=2"]
    return load_config("smoke", [*words, *overrides])


def given_key(mnist_root: Path, root: Path, *overrides: str) -> Config:
    return config_for(mnist_root, root, f"privacy.noise_key={GIVEN}", *overrides)


def headers(result: Result) -> list[dict[str, str]]:
    """Return what the files of the new clients' parts say about them."""
    found = []
    for client_id in result.setting.new_ids:
        with safe_open(client_path(result.run_dir / MODEL, client_id), "pt") as file:
            found.append(file.metadata())
    return found


def holding(secret: bytes, folder: Path) -> list[Path]:
    """Return the files below a folder with a key in any usual form."""
    forms = (secret, secret.hex().encode(), base64.b64encode(secret), repr(secret).encode())
    files = [path for path in folder.rglob("*") if path.is_file()]
    return [path for path in files if any(form in path.read_bytes() for form in forms)]


@pytest.mark.parametrize(
    ("method", "mechanism", "clip"),
    [
        ("spire", "dp_sgd", "null"),
        ("spire", "one_release", "null"),
        ("shared_rep", "dp_sgd", "0.1"),
    ],
)
def test_a_killed_run_goes_on_with_its_key_to_the_same_result(
    method: str, mechanism: str, clip: str, mnist_root: Path, tmp_path: Path
) -> None:
    more = [f"method={method}", f"privacy.adapt.mechanism={mechanism}"]
    more += [f"privacy.adapt.clip_norm={clip}", "method.local_layers=[conv_out]"]
    config = given_key(mnist_root, tmp_path, *more)
    expected = run_experiment(config, "smoke", Watching())
    crasher = Watching(crashes=True)
    with pytest.raises(Crash):
        run_experiment(config, "smoke", crasher)
    assert crasher.mode == 0o600
    stored, _ = load_start(crasher.run_dir)
    assert fingerprint(stored) == fingerprint(config)
    result = resume_experiment(crasher.run_dir, stored, Watching())
    assert result.state_fingerprint == expected.state_fingerprint
    assert not (crasher.run_dir / NOISE_KEY).exists()
    check_promise(expected, mechanism, "simulated")
    assert "partition_hash" not in (result.run_dir / MODEL / "config.json").read_text()


def check_promise(found: Result, mechanism: str, source: str) -> None:
    assert found.metrics["privacy/epsilon"] == pytest.approx(4.0, abs=1e-6)
    for header in headers(found):
        assert header["privacy.dp"] == source
        assert header["privacy.mechanism"] == mechanism
        assert header["privacy.unit"] == "one image"
        assert float(header["privacy.epsilon"]) == pytest.approx(4.0, abs=1e-6)
        assert float(header["privacy.delta"]) == 1 / 80


def test_a_run_that_is_killed_after_it_published_publishes_the_same_again(
    mnist_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a fresh key: its noise is spent once, whatever happens to the process."""
    config, watching = config_for(mnist_root, tmp_path), Watching()
    with monkeypatch.context() as patched:
        patched.setattr(run, "export_models", _crash)
        with pytest.raises(Crash):
            run_experiment(config, "smoke", watching)
    store = ClientStore(watching.run_dir / CLIENTS)
    before = {c: store.load(c) for c in (6, 7)}
    for client_id in (6, 7):
        store.path(client_id, 0).unlink()
    unfinished = watching.run_dir / MODEL / "clients" / "a1.part"
    unfinished.parent.mkdir(parents=True)
    unfinished.write_bytes(b"a client's own")
    result = resume_experiment(watching.run_dir, load_start(watching.run_dir)[0], Watching())
    assert result.setting.new_ids == [6, 7]
    assert not unfinished.exists()
    for client_id, state in before.items():
        again = store.load(client_id)
        assert state is not None
        assert again is not None
        assert equal(state.parts["client_emb"], again.parts["client_emb"])
    check_promise(result, "dp_sgd", "secret")
    other = run_experiment(config, "smoke", Watching())
    assert other.state_fingerprint != result.state_fingerprint  # a fresh key, other noise


def _crash(*_: Any) -> None:
    raise Crash


@pytest.mark.parametrize("is_given", [True, False])
def test_the_key_is_in_no_file_log_or_message_but_its_own(
    is_given: bool,
    mnist_root: Path,
    new_database: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    root, storage = tmp_path / "root", tmp_path / "storage"
    root.mkdir()
    shutil.copy(new_database, root)
    words = [f"tracking.storage=file://{storage}", "tracking.enabled=true"]
    config = config_for(mnist_root, root, *words)
    if is_given:
        config = given_key(mnist_root, root, *words)
    monkeypatch.setattr(noise_key, "new_key", lambda: FRESH)
    sent, run_all = list[bytes](), LocalClientPool.run_all

    def listen(pool: LocalClientPool, task: str, units: Any, *args: Any, **more: Any) -> list[Any]:
        results = run_all(pool, task, units, *args, **more)
        sent.append(pickle.dumps((task, units, args, more, results, pool.worker.setup)))
        return results

    monkeypatch.setattr(LocalClientPool, "run_all", listen)
    secrets = [key_of(GIVEN), GIVEN.encode()] if is_given else [FRESH]
    crasher = Watching(crashes=True)
    with caplog.at_level(logging.DEBUG):
        with pytest.raises(Crash):
            run_experiment(config, "smoke", crasher)
        key_file = crasher.run_dir / NOISE_KEY
        assert holding(secrets[0], tmp_path) == [key_file]
        assert not storage.exists()  # without its key the copy could not go on
        resume_experiment(crasher.run_dir, load_start(crasher.run_dir)[0], Watching())
    assert [path for secret in secrets for path in holding(secret, tmp_path)] == []
    texts = [caplog.text.encode(), *sent]
    assert len(sent) > 5
    assert any(b"fit_" in text for text in sent)  # the names of tasks do travel
    for secret, text in itertools.product(secrets, texts):
        assert secret not in text
        assert secret.hex().encode() not in text
    tracked = MlflowClient(f"sqlite:///{root}/mlflow.db").get_run(crasher.run_dir.name).data
    assert tracked.tags["dp"] == ("simulated" if is_given else "secret")
    assert tracked.tags["privacy.unit"] == "one image"
    assert tracked.metrics["privacy/epsilon"] == pytest.approx(4.0, abs=1e-6)


def test_a_run_is_resumed_with_its_own_key_alone(mnist_root: Path, tmp_path: Path) -> None:
    crasher = Watching(crashes=True)
    with pytest.raises(Crash):
        run_experiment(config_for(mnist_root, tmp_path), "smoke", crasher)
    run_dir = crasher.run_dir
    key, (config, _) = (run_dir / NOISE_KEY).read_bytes(), load_start(run_dir)
    (run_dir / NOISE_KEY).unlink()
    with pytest.raises(RunError, match=r"^expected the noise key .*: another key would spend"):
        resume_experiment(run_dir, config, Watching())
    (run_dir / NOISE_KEY).write_bytes(key[:5])
    with pytest.raises(RunError, match=r"^expected a noise key of 32 bytes in .*, got 5: "):
        resume_experiment(run_dir, config, Watching())


def test_a_run_is_resumed_on_its_own_kind_of_device_alone(mnist_root: Path, tmp_path: Path) -> None:
    """Elsewhere it would add the same noise to other sums. Older runs have no record of it."""
    config, crasher = given_key(mnist_root, tmp_path), Watching(crashes=True)
    with pytest.raises(Crash):
        run_experiment(config, "smoke", crasher)
    run_dir = crasher.run_dir
    record, stored = run_dir / NOISE_DEVICE, load_start(run_dir)[0]
    assert record.read_text() == "cpu"
    record.write_text("cuda")
    refused = r"^expected device cuda for the private noise .*, got cpu: .*where it has a GPU$"
    with pytest.raises(RunError, match=refused):
        resume_experiment(run_dir, stored, Watching())
    record.write_text("cpu")
    with pytest.raises(RunError, match=r"^expected device cpu .*, got cuda: .*device=cpu$"):
        noise_key.keep_noise_device(run_dir, stored.privacy, "cuda")
    record.unlink()
    resume_experiment(run_dir, stored, Watching())
    assert not record.exists()
    quiet = load_config("smoke").privacy
    noise_key.keep_noise_device(run_dir, quiet, "cpu")
    assert not record.exists()


def test_a_key_that_a_kill_left_behind_is_deleted_by_a_resume(tmp_path: Path) -> None:
    tracking = TrackingConfig(root=str(tmp_path), enabled=False)
    run_dir = make_run_dir(tracking, "0" * 32, "name", None)
    (run_dir / NOISE_KEY).write_bytes(FRESH)
    write_json(run_dir / RESULT, {"metrics": {}})
    assert main(["resume", run_dir.name, f"tracking.root={tmp_path}"]) == 0
    assert not (run_dir / NOISE_KEY).exists()


def test_the_label_of_a_key_is_no_key(mnist_root: Path, tmp_path: Path) -> None:
    config = run.without_key(given_key(mnist_root, tmp_path))
    assert (config.privacy.noise_key or "").startswith("given:")
    with pytest.raises(ConfigError, match=r"^expected privacy.noise_key as the key itself"):
        run_experiment(config, "smoke", Watcher())
    assert not (tmp_path / "runs").exists()  # it is refused before its run is recorded


def test_a_private_run_without_new_clients_ends(mnist_root: Path, tmp_path: Path) -> None:
    config = config_for(mnist_root, tmp_path, "federation.num_new_clients=0")
    result = run_experiment(config, None, Watcher())
    assert result.adaptation.reports == ()
    assert not [tag for tag in run_tags(result.setting, None) if tag.startswith(("dp", "privacy"))]
