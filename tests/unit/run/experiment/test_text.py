"""A run on fonts with prompts: from the clients' captions to a sheet of new glyphs."""

import json
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_runs import finished, small

from pipeline.audit.audit import audit_run, audit_worker
from pipeline.clients.worker import ClientWorker
from pipeline.config.load import load_config
from pipeline.federation.messages import FitPlan, WorkerSetup
from pipeline.federation.setup import FederationSetup, prepare
from pipeline.inference.saved_run import SavedRun
from pipeline.results.result import Result
from pipeline.results.tables import new_clients
from pipeline.runs.record import load_start
from pipeline.tracking.outbox import read_points
from spire_core.errors import DataError, RunError
from spire_core.federated.messages import Broadcast, RoundPlan
from spire_core.network.flat_model import initial_weights
from sweeps import cli

WORDS = [*"abcdefghijklmnopqrstuvwxyz", "latin", "small", "capital", "letter", "digit"]
WORDS += ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
SETTINGS = ["data=fonts", "data.image_size=16", "partition=natural", "eval.extractor=mnist-cnn"]
SETTINGS += ["federation.num_clients=4", "federation.num_new_clients=1", "client.text_dropout=0.1"]
SETTINGS += ["federation.cohort_size=2", "adapt.num_images=8", "adapt.epochs=2"]
SETTINGS += ["eval.num_images=16", "eval.num_loss_images=16", "resources.pool=local"]
SETTINGS += ["model.text=words", f"model.words=[{','.join(WORDS)}]"]


def setting_for(root: Path, *more: str) -> FederationSetup:
    return prepare(load_config("smoke", [*SETTINGS, f"data.root={root}", *more]))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs_with_text")


@pytest.fixture(scope="module")
def result(base: Path, fonts_root: Path) -> Result:
    return finished(small(fonts_root, base, *SETTINGS))


def test_new_clients_are_measured_by_what_they_never_showed(result: Result) -> None:
    """And it is told whose style was drawn, among all clients; controls draw for another client."""
    points = [found for _, found in read_points(result.run_dir) if "text/style_distance" in found]
    assert len(points) == 3  # epochs 0, 1 and 2
    for found in points:
        assert 0 < found["text/style_distance"] < 1
        assert found["text/retrieved"] in (0, 1)  # of one new client
        assert 0 <= found["text/copied"] <= 1
        assert "text/prompt_accuracy" not in found  # digits' classifier
    (report,), setting = result.adaptation.reports, result.setting
    (row,) = new_clients(result.adaptation, result.real, 10).to_dict("records")
    (split,) = setting.partition.new_clients
    assert (len(split.train), len(split.test)) == (8, 54)
    labels, images = setting.data.labels, setting.images.astype(float)
    drawn = (report.after.images + 1) * 127.5
    expected = np.abs(drawn - images[split.test[:16]]).mean() / 255
    assert result.metrics["final/adapt_style_distance_after"] == pytest.approx(expected, rel=1e-4)
    nearest = [np.abs(images[split.train] - own).mean((1, 2, 3)).min() / 255 for own in drawn]
    assert row["shown_distance_after"] == pytest.approx(np.mean(nearest), rel=1e-4)
    assert 1 <= row["retrieval_rank_after"] <= 5
    assert (row["retrieved_after"] == 1) == (row["retrieval_rank_after"] == 1)
    trained = np.concatenate([client.train for client in setting.partition.train_clients])
    distances = [
        np.abs(images[trained[labels[trained] == labels[at]]].mean(0) - images[at]).mean() / 255
        for at in split.test[:16]
    ]
    assert row["style_distance_mean_client"] == pytest.approx(np.mean(distances), rel=1e-4)
    assert row["retrieved_nearest_client"] == 0  # it draws another client's images
    name = "final/adapt_style_distance_nearest_client"
    assert result.metrics[name] == row["style_distance_nearest_client"] > 0


def test_a_classifier_reads_the_drawn_and_the_true_glyphs(fonts_root: Path, base: Path) -> None:
    setting = setting_for(fonts_root, "eval.extractor=fonts-cnn")
    setup = worker_setup(setting, base)
    worker = ClientWorker(setup, setting.images)
    client = worker.client_data(setting.new_ids[0])
    truth = client.truth(54)
    assert truth is not None
    scores = worker.evaluator.text_scores(client, truth[0].float() / 127.5 - 1)
    assert scores["style_distance"] == pytest.approx(0, abs=1e-6)
    assert scores["prompt_accuracy"] == scores["true_accuracy"] > 0.6
    inverted = worker.evaluator.text_scores(client, 1 - truth[0].float() / 127.5)
    assert inverted["style_distance"] > 0.5
    assert inverted["prompt_accuracy"] < scores["true_accuracy"]


def worker_setup(setting: FederationSetup, folder: Path) -> WorkerSetup:
    fields = (setting.mixtures, setting.partition, setting.extractor, folder)
    return WorkerSetup(setting.config, *fields, setting.tokens, setting.data.labels)


def test_an_audit_trains_with_captions(result: Result) -> None:
    """Each simulated round shows those of its clients."""
    began, _ = load_start(result.run_dir)
    worker = audit_worker(prepare(began), result.run_dir)
    assert worker.for_training(worker.client_data(0)).tokens is not None
    assert audit_run(result.run_dir, began, began, (), 1, print).messages is not None


def test_no_message_of_a_client_holds_its_captions(fonts_root: Path, tmp_path: Path) -> None:
    setting = setting_for(fonts_root, "adapt.guidance=[1,2]")
    odd = np.random.default_rng(0).integers(2**40, 2**60, (len(setting.images), 4))
    odd[:, 0] = 1  # one word that the network knows, three by which a caption is found
    setting = replace(setting, tokens=odd)
    worker = ClientWorker(worker_setup(setting, tmp_path), setting.images)
    config = setting.config
    weights = initial_weights(config.model, config.method, 1, 0).numpy()
    plan = RoundPlan(0, lr_scale=1.0, shares_local=True, tau=3)
    content = pickle.dumps([one for one, _ in worker.trained((0, 1), 0, Broadcast(weights), plan)])
    content += pickle.dumps(worker.fit((0, 1), Broadcast(weights), plan))
    content += pickle.dumps(worker.draw((0, 1), weights))
    new, pooled = setting.new_ids[0], worker.real_features(0)
    fits = FitPlan(weights, pooled, is_together=True)
    content += pickle.dumps(worker.adapt((new,), fits))
    content += pickle.dumps(worker.look((new,), fits, [None]))
    content += pickle.dumps(worker.text_controls(new))
    for file in tmp_path.rglob("*.safetensors"):
        content += file.read_bytes()  # a private state needs no caption either
    splits = [setting.partition.split(c) for c in (0, 1, new)]
    rows = [at for split in splits for at in (*split.train, *split.test)]
    assert not any(odd[at, 1:].tobytes() in content for at in rows)
    assert any(odd[at, 1:].tobytes() in pickle.dumps(odd) for at in rows)


def test_a_frozen_encoder_takes_the_place_of_the_words(fonts_root: Path, tmp_path: Path) -> None:
    """Through rounds in groups, a private fit and a prompt of words that no caption has."""
    words = ["model.text=sentences", "model.words=[]", "client.text_dropout=0.5"]
    words += ["privacy.adapt.epsilon=8", "privacy.adapt.steps=2", "privacy.adapt.draws=2"]
    words += ["privacy.adapt.clip_norm=0.01"]
    found = finished(small(fonts_root, tmp_path, *SETTINGS, *words))
    tokens = found.setting.tokens
    assert tokens is not None
    assert (tokens.dtype, tokens.shape[1]) == (np.float32, 256)
    names = {name for name, _, _ in found.setting.model.layout.names if name.startswith("text.")}
    assert names == {"text.mlp.0.weight", "text.mlp.0.bias", "text.mlp.2.weight", "text.mlp.2.bias"}
    assert "text_sha256" in found.setting.hashes
    run = SavedRun.load(found.run_dir)
    q, seven = (run.draw(4, 2, prompt=text) for text in ("the letter q", "SEVEN"))
    assert np.abs(q - seven).max() > 1e-3
    config = found.run_dir / "model" / "config.json"
    config.write_text(config.read_text().replace(found.setting.hashes["text_sha256"], "other"))
    with pytest.raises(RunError, match="expected the sentence encoder of the run"):
        SavedRun.load(found.run_dir).draw(4, 1, prompt="seven")


def test_prompts_are_drawn_from_the_same_noise(result: Result) -> None:
    run = SavedRun.load(result.run_dir)
    q, again = (
        run.draw(4, 2, prompt=text) for text in ("latin small letter q", "Letter q small LATIN")
    )
    np.testing.assert_allclose(q, again, atol=1e-4)  # the order of words does not count
    other = run.draw(4, 2, prompt="digit seven")
    assert np.abs(q - other).max() > 1e-3
    stronger = run.draw(4, 2, prompt="digit seven", text_guidance=4.0)
    assert np.abs(stronger - other).max() > 1e-3
    with pytest.raises(DataError, match="got 'seventeen'"):
        run.draw(4, 2, prompt="digit seventeen")


def test_a_sheet_has_a_row_for_each_prompt(
    result: Result, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["sample", result.run_id, f"tracking.root={base}", "--client", "4", "--num", "5"]
    words += ["--prompt", "latin small letter q", "--prompt", "digit seven", "--json"]
    assert cli.main([*words, "--out", str(tmp_path / "sheet.png")]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["prompts"] == ["latin small letter q", "digit seven"]
    assert told["num_images"] == 10
    images = np.load(told["artifacts"]["npz"])["images"]
    run = SavedRun.load(result.run_dir)
    np.testing.assert_array_equal(images[5:], run.draw(4, 5, prompt="digit seven"))
    with Image.open(told["artifacts"]["png"]) as sheet:
        width, height = sheet.size
    assert (width, height) == (5 * 34 + 2, 2 * 34 + 2)
