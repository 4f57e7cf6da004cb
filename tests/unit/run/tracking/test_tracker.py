import io
import json
import math
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from matplotlib.figure import Figure
from mlflow import MlflowClient
from mlflow.entities import Run
from PIL import Image

from pipeline.config.load import load_config
from pipeline.config.schema import Config
from pipeline.config.tracking import TrackingConfig, tracking_uri, ui_command, ui_text
from pipeline.files.paths import git_revision
from pipeline.inference.saved_run import SavedRun
from pipeline.runs.layout import REFUSED, RESULT
from pipeline.runs.model_files import save_client, save_run
from pipeline.runs.record import find_run, read_record
from pipeline.tracking.mlflow_model import (
    MODEL_NEEDS,
    keep_published,
    needs_of,
)
from pipeline.tracking.outbox import read_points
from pipeline.tracking.tracker import Tracker, check_store, drop_runs
from spire_core.errors import ClusterError, RunError
from spire_core.network.flat_model import FlatModel


@pytest.fixture(scope="module")
def first_run(tmp_path_factory: pytest.TempPathFactory) -> TrackingConfig:
    """A store with one run, in a folder that did not exist; creating it printed nothing."""
    config = TrackingConfig(root=str(tmp_path_factory.mktemp("tracking") / "my runs"))
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        with redirect_stdout(printed), redirect_stderr(printed):
            Tracker.start(config, "first", {}).finish()
    assert printed.getvalue() == ""
    return config


@pytest.fixture
def store(first_run: TrackingConfig, monkeypatch: pytest.MonkeyPatch) -> TrackingConfig:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return first_run


def client_of(config: TrackingConfig) -> MlflowClient:
    return MlflowClient(tracking_uri(config))


def read_run(config: TrackingConfig, tracker: Tracker) -> Run:
    return client_of(config).get_run(tracker.run_id)


def read_text(config: TrackingConfig, tracker: Tracker, path: str, to: Path) -> str:
    return Path(client_of(config).download_artifacts(tracker.run_id, path, str(to))).read_text()


def refused(tracker: Tracker) -> list[dict[str, Any]]:
    return [json.loads(x) for x in (tracker.run_dir / REFUSED).read_text().splitlines()]


def test_all_that_is_logged_comes_back(
    store: TrackingConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    params = {f"group.key{i}": i for i in range(90)} | {"none": None, "empty": "", "t": (1, 2)}
    image = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)
    values = {"a": (1, 2), "b": {"c": None}, "uri": "http://me:secret@host/x", "name": "1e5"}
    columns = {"client_id": np.array([0, 1]), "kid": [0.5, math.nan], "mixed": ["a", 2]}
    long = {"mlflow.user": "given", "note": "x" * 9000}  # PostgreSQL refuses 8,001 characters
    sha256 = "0123456789abcdef" * 4
    figure = Figure()
    figure.subplots().plot([0, 1])
    with Tracker.start(store, "all" * 100, {"method": "spire", **long}) as tracker:
        tracker.log_params(params)
        tracker.log_metrics({"pretrain/loss": 0.5, "time/round_s": 2.0}, step=0)
        tracker.log_metrics({"pretrain/loss": 0.25}, step=7)
        tracker.log_metrics({"nan": math.nan, "inf": -math.inf}, step=4)
        tracker.log_tags({"state_fingerprint": "abc", "from": "http://me:secret@host"})
        tracker.log_image("samples/client_3", image, step=20)
        tracker.log_image("samples/grey", image[:, :, :1], step=20)
        tracker.log_figure(figure, "figures/kid.png")
        tracker.log_dict(values, "config/resolved.yaml")
        tracker.log_dict(values, "config/resolved.json")
        tracker.log_table("tables/kid.json", pd.DataFrame({"client_id": [9]}))
        tracker.log_table("tables/kid.json", pd.DataFrame(columns, dtype=object))
        tracker.log_dataset("mnist", sha256, 5)
    run, client = read_run(store, tracker), client_of(store)
    assert (run.info.run_name, run.info.status) == (("all" * 100)[:250], "FINISHED")
    assert read_record(tracker.run_dir)["run_name"] == "all" * 100
    assert {path.name for path in Path(store.root or "").iterdir()} == {
        "artifacts",
        "mlflow.db",
        "mlflow.db.lock",
        "runs",
    }
    assert run.data.params == {key: str(value) for key, value in params.items()}
    history = client.get_metric_history(tracker.run_id, "pretrain/loss")
    assert [(m.step, m.value) for m in history] == [(0, 0.5), (7, 0.25)]
    assert math.isnan(run.data.metrics["nan"])
    assert run.data.metrics["inf"] == -sys.float_info.max
    assert [r.getMessage() for r in caplog.records] == [
        "metrics that are not finite at step 4: nan=nan, inf=-inf"
    ]
    tags = {"method": "spire", "state_fingerprint": "abc", "from": "http://me:***@host"}
    tags |= {"mlflow.user": "given", "note": "x" * 8000, "version.torch": version("torch")}
    tags |= {"mlflow.source.name": "spire", "mlflow.source.git.commit": git_revision()}
    assert tags.items() <= run.data.tags.items()

    paths = [a.path for a in client.list_artifacts(tracker.run_id, "images")]
    (path,) = [p for p in paths if "samples~client_3" in p and p.endswith(".png")]
    assert "+step+20+" in path
    stored = client.download_artifacts(tracker.run_id, path, str(tmp_path))
    np.testing.assert_array_equal(np.asarray(Image.open(stored)), image)
    assert len(paths) == 4  # each as png and as a small webp
    png = client.download_artifacts(tracker.run_id, "figures/kid.png", str(tmp_path))
    assert Path(png).read_bytes().startswith(b"\x89PNG")
    plain = json.loads(read_text(store, tracker, "config/resolved.json", tmp_path))
    assert plain == {"a": [1, 2], "b": {"c": None}, "uri": "http://me:***@host/x", "name": "1e5"}
    assert yaml.safe_load(read_text(store, tracker, "config/resolved.yaml", tmp_path)) == plain

    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking_uri(store))  # load_table takes no other
    table = MlflowClient().load_table(
        run.info.experiment_id, "tables/kid.json", run_ids=[tracker.run_id]
    )
    assert table["client_id"].tolist() == [0, 1]
    assert table["kid"][0] == 0.5
    assert math.isnan(table["kid"][1])
    assert table["mixed"].tolist() == ["a", 2]
    (given,) = run.inputs.dataset_inputs
    assert (given.dataset.name, given.dataset.digest) == ("mnist", sha256[:36])
    assert json.loads(given.dataset.profile) == {"num_examples": 5, "sha256": sha256}


def test_without_tracking_there_is_a_folder_and_nothing_else(tmp_path: Path) -> None:
    config = TrackingConfig(enabled=False, root=str(tmp_path))
    with Tracker.start(config, "quiet", {}) as tracker:
        tracker.log_params({"a": 1})
        tracker.log_metrics({"a": 1.0}, 0)
        tracker.log_dict({}, "a.json")
        tracker.log_model(tmp_path, (1, 8, 8))
    assert not tracker.keeps_all
    assert read_points(tracker.run_dir) == [(0, {"a": 1.0})]
    assert not (tracker.run_dir / "artifacts").exists()
    assert tracker.uri is None
    assert len(tracker.run_id) == 32
    assert sorted(p.name for p in tmp_path.iterdir()) == ["runs"]
    assert find_run("quiet", config) == tracker.run_dir
    assert not Tracker.resume(config, tracker.run_dir).keeps_all


# ------------------------------------------------------------------------------------- the model


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Tiny convolutions are slower on several threads, many times so on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def tiny_run(folder: Path) -> SavedRun:
    config = load_config(
        None,
        [
            "model.d_emb=4",
            "model.width=8",
            "model.multipliers=[1]",
            "model.attention=[]",
            "model.cond_dim=8",
            "diffusion.num_timesteps=10",
            "diffusion.sample_steps=2",
        ],
    )
    model = FlatModel(config.model, config.method, 1)
    weights = torch.randn(model.layout.size, generator=torch.Generator().manual_seed(0)) / 10
    more = {"image_shape": [1, 8, 8], "class_names": ["a", "b"]}
    save_run(folder, config, model, weights.numpy(), more)
    for client_id in (0, 5):
        emb = {"client_emb": torch.full((4,), float(client_id))}
        save_client(folder, client_id, emb, guidance=3.0 if client_id else None)
    return SavedRun.load(folder)


@pytest.mark.usefixtures("one_thread")
def test_the_logged_model_draws_what_the_saved_run_draws(
    store: TrackingConfig, capfd: pytest.CaptureFixture[str]
) -> None:
    path_before = list(sys.path)
    with Tracker.start(store, "model", {}) as tracker:
        saved = tiny_run(tracker.run_dir / "model")
        arrived = save_client(saved.folder, 999, {"client_emb": torch.ones(4)})  # stays here
        arrived.with_suffix(".png").write_bytes(b"what it draws")
        tracker.log_model(saved.folder, saved.image_shape, guidance=1.5)
    assert capfd.readouterr() == ("", "")
    assert sys.path == path_before
    client = client_of(store)
    (output,) = read_run(store, tracker).outputs.model_outputs
    logged = client.get_logged_model(output.model_id)
    assert (str(logged.status), logged.source_run_id) == ("READY", tracker.run_id)

    import mlflow.pyfunc

    try:
        model = mlflow.pyfunc.load_model(logged.artifact_location)
    finally:
        sys.path[:] = path_before  # loading puts the model's own code first
    place = Path(unquote(urlparse(logged.artifact_location).path))
    files = {path.name for path in place.rglob("clients/*")}
    assert files == {"client_0.safetensors", "client_5.safetensors"}
    clients = pd.DataFrame({"client_id": [5, 0, -1]})
    drawn = model.predict(clients, params={"seed": 3, "num_images": 2, "guidance": 1.0})
    expected = [saved.draw(client_id, 2, 3, 1.0) for client_id in (5, 0, None)]
    np.testing.assert_array_equal(drawn, np.concatenate(expected))
    defaults = model.predict(clients[:1])
    np.testing.assert_array_equal(defaults, saved.draw(5, 1, 0, 1.5))
    own = model.predict(clients, params={"guidance": -1.0})  # each client's
    each = [saved.draw(i, 1, 0, saved.guidance(i)) for i in (5, 0, None)]
    np.testing.assert_array_equal(own, np.concatenate(each))
    assert not np.array_equal(own[:1], saved.draw(5, 1, 0, saved.config.eval.guidance))
    with pytest.raises(RunError, match="expected a client out of 0, 5, got 1"):
        model.predict(pd.DataFrame({"client_id": [1]}))


@pytest.mark.parametrize(("epsilon", "kept"), [(None, {0, 2, 3}), (8.0, {3})])
def test_a_logged_model_has_no_client_without_noise_beside_a_private_backbone(
    epsilon: float | None, kept: set[int], tmp_path: Path
) -> None:
    federation = {"num_clients": 3, "num_new_clients": 1}
    config = {"federation": federation, "privacy": {"rounds": {"epsilon": epsilon}}}
    paths = {i: save_client(tmp_path, i, {"client_emb": torch.ones(4)}) for i in (0, 2, 3, 4)}
    unfinished = [tmp_path / "a1.part", tmp_path / "clients" / "b2.part"]
    for path in (*unfinished, tmp_path / "clients" / "client_4.png"):
        path.write_bytes(b"a client's own")
    keep_published(tmp_path, config)
    found = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.*")}
    assert found == {f"clients/{paths[i].name}" for i in kept}


@pytest.mark.parametrize(
    ("word", "more"),
    [
        ("seed=1", set()),
        ("model.backbone=/models/ddpm", {"diffusers"}),
        ("model.text=sentences", {"wordllama"}),
    ],
)
def test_a_logged_model_asks_for_what_its_run_is_drawn_with(word: str, more: set[str]) -> None:
    config = Config().as_dict()
    group, _, key = word.partition("=")[0].partition(".")
    if key:
        config[group][key] = word.partition("=")[2]
    assert {need.partition("==")[0] for need in needs_of(config)} == {*MODEL_NEEDS, *more}


def test_a_model_that_cannot_be_saved_is_marked_as_failed_and_refused(
    store: TrackingConfig,
) -> None:
    with Tracker.start(store, "no model", {}) as tracker:
        tracker.log_model(tracker.run_dir / "nothing_here", (1, 8, 8))
        folder = tiny_run(tracker.run_dir / "model").folder
        tracker.log_model(folder, (1, 8, 8), guidance="no number")  # type: ignore[arg-type]
    assert [r["reason"].partition(":")[0].partition(" in ")[0] for r in refused(tracker)] == [
        "expected a saved run",
        "the model cannot be saved",
    ]
    run = read_run(store, tracker)
    models = client_of(store).search_logged_models([run.info.experiment_id])
    (model,) = [m for m in models if m.source_run_id == tracker.run_id]
    assert (str(model.status), run.info.status) == ("FAILED", "FINISHED")


# --------------------------------------------------------------------------- stores that are wrong


@pytest.mark.parametrize("uri", ["postgresql+nosuch://host/name", "sqlite:///no_database.db"])
def test_an_address_without_a_store_or_its_driver_is_one_sentence(uri: str, tmp_path: Path) -> None:
    (tmp_path / "no_database.db").write_text("no database " * 100)
    with pytest.raises(ClusterError, match=r"expected an MLflow store at .*, got"):
        check_store(TrackingConfig(uri=uri, root=str(tmp_path)))


def test_a_server_that_does_not_answer_is_one_sentence_and_soon(tmp_path: Path) -> None:
    config = TrackingConfig(uri="http://me:secret@127.0.0.1:9", root=str(tmp_path))
    began = time.monotonic()
    with pytest.raises(ClusterError) as raised:
        Tracker.start(config, "nowhere", {})
    assert time.monotonic() - began < 15
    message = str(raised.value)
    where = "http://me:***@127.0.0.1:9"
    assert message.startswith(f"expected an MLflow store at {where}, got ")
    assert "Connection refused" in message
    assert message.endswith("or set tracking.enabled=false")
    assert "secret" not in message
    assert "\n" not in message
    assert raised.value.__cause__ is None


# ------------------------------------------------------------------------------ names and commands


def test_runs_are_found_by_every_name(tmp_path: Path) -> None:
    config = TrackingConfig(enabled=False, root=str(tmp_path))
    runs = []
    for name in ("a", "b", "b"):
        runs.append(Tracker.start(config, name, {}))
        time.sleep(0.002)  # the order is that of the milliseconds
    first, second, third = runs
    assert find_run("last", config) == third.run_dir
    assert find_run("a", config) == first.run_dir
    assert find_run("last", config, is_finished=True) == third.run_dir  # none has ended
    (second.run_dir / RESULT).touch()
    for name in ("last", "b"):
        assert find_run(name, config, is_finished=True) == second.run_dir
    assert find_run(second.run_id, config) == second.run_dir
    assert find_run(third.run_id[:12], config) == third.run_dir
    named = Tracker.start(config, third.run_id[:3], {})
    assert find_run(third.run_id[:3], config) == named.run_dir
    assert find_run(str(first.run_dir), TrackingConfig(root="elsewhere")) == first.run_dir

    with pytest.raises(RunError, match="got 'b', which fits 2 of them") as raised:
        find_run("b", config)
    assert second.run_id[:8] in str(raised.value)
    assert first.run_id[:8] not in str(raised.value)
    told = r"\(a, not finished, .*\), .*\(b, finished, \d{4}-.* UTC\), .*\(b, not finished, "
    with pytest.raises(RunError, match=rf"got 'no', which is none .*{told}"):
        find_run("no", config)
    for absent in ("", str(tmp_path), "last"):
        with pytest.raises(RunError, match=r"none of those in .*tracking\.root=FOLDER"):
            find_run(absent, TrackingConfig(root=str(tmp_path / "empty")))


def test_the_ui_command_is_exact_and_hides_passwords(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert ui_command(TrackingConfig(root="/my runs")) == (
        "mlflow ui --backend-store-uri 'sqlite:////my runs/mlflow.db' --host 127.0.0.1 --port 5000"
    )
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:secret@host:1/x")
    training = "?workflowType=machine_learning"
    assert ui_command(TrackingConfig()) == f"https://me:***@host:1/x/#/experiments{training}"
    assert ui_text(TrackingConfig(), "7") == f"https://me:***@host:1/x/#/experiments/7{training}"
    command, _, opened = ui_text(TrackingConfig(uri="sqlite:////a.db"), "7").partition("\n")
    assert "--backend-store-uri sqlite:////a.db" in command
    assert opened == f"  and open http://127.0.0.1:5000/#/experiments/7{training}"


def test_runs_that_nobody_knows_are_dropped_and_no_others(
    tmp_path: Path, new_database: Path
) -> None:
    shutil.copy(new_database, tmp_path)
    store = TrackingConfig(root=str(tmp_path), uri=f"sqlite:///{tmp_path}/mlflow.db")
    sweep = Tracker.start(store, "sweep", {"spire.trial_id": "none"}, kind="sweep")
    trials = {
        name: Tracker.start(store, name, {"spire.trial_id": name}, sweep.run_id)
        for name in ("killed", "other")
    }
    alone = Tracker.start(store, "alone", {"spire.trial_id": "killed"})
    again = Tracker.start(store, "finished", {"spire.trial_id": "killed"}, sweep.run_id)
    again.finish()
    for tracker in (sweep, *trials.values(), alone):
        tracker.finish("KILLED")
    drop_runs(store, {"mlflow.parentRunId": sweep.run_id, "spire.trial_id": "killed"})
    client = MlflowClient(store.uri)
    [experiment] = [e for e in client.search_experiments() if e.name == store.experiment]
    left = {run.info.run_name for run in client.search_runs([experiment.experiment_id])}
    assert left == {"sweep", "other", "alone", "finished"}
    assert again.run_dir.is_dir()
    assert not trials["killed"].run_dir.exists()
    assert trials["other"].run_dir.is_dir()
