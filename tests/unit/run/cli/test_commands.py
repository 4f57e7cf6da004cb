"""The command line: each mistake is one sentence and exit code 2, and `--json` is one object."""

import contextlib
import io
import json
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open

from pipeline.cli.progress import Progress
from pipeline.config.load import load_config
from pipeline.config.meaning import fingerprint
from pipeline.federation.rounds import RoundStats
from pipeline.inference.arrival import reserved_id
from pipeline.inference.arrival_images import load_arrival
from pipeline.inference.saved_run import SavedRun
from pipeline.runs.model_files import save_run
from spire_core.network.flat_model import FlatModel
from spire_core.rng import numpy_generator
from sweeps import cli

VERBS = [["run"], ["resume"], ["adapt"], ["sample"], ["data"], ["data", "fetch"], ["data", "show"]]
VERBS += [["theory"], ["sweep"], ["report"], ["sync"], ["doctor"], ["audit"], ["export"], ["try"]]


@dataclass
class Said:
    code: int
    out: str
    err: str


@pytest.fixture
def spire(mnist_root: Path, monkeypatch: pytest.MonkeyPatch, capsys, tmp_path: Path):
    """Runs the command in an empty folder and returns what it said."""
    monkeypatch.setenv("SPIRE_DATA", str(mnist_root))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    return lambda *argv: Said(cli.main(argv), *capsys.readouterr())


@pytest.fixture
def finished_run(tmp_path: Path) -> Path:
    """A run folder with a random backbone, in the place where runs lie."""
    config = load_config("smoke", ["eval.num_images=8", "adapt.epochs=1", "adapt.num_images=8"])
    model = FlatModel(config.model, config.method, 1)
    weights = numpy_generator(0, "weights").normal(0, 0.1, model.layout.size).astype(np.float32)
    more = {"image_shape": [1, 16, 16], "class_names": list("0123456789")}
    folder = tmp_path / "runs" / "0123abcd"
    save_run(folder / "model", config, model, weights, more)
    record = {"run_id": "0123abcd", "run_name": "tiny", "started_ms": 0}
    record |= {"kind": "run", "tracked": False, "uri": ""}
    (folder / "run.json").write_text(json.dumps(record))
    return folder


def assert_one_sentence(said: Said, *parts: str) -> None:
    assert said.code == 2
    assert said.out == ""
    assert said.err.count("\n") == 1
    for part in parts:
        assert part in said.err


@pytest.mark.parametrize("verb", [["run", "smoke", "--dry-run"], ["data", "show", "smoke"]])
def test_own_images_are_never_taken_for_a_data_set(spire, tmp_path: Path, verb: list[str]) -> None:
    (tmp_path / "photos" / "cats").mkdir(parents=True)
    (tmp_path / "photos" / "cats" / "1.JPG").touch()
    said = spire(*verb, f"data.path={tmp_path}/photos")
    assert_one_sentence(said, "original files of mnist", "preset folder-cpu or data.name=folder")
    assert_one_sentence(spire(*verb, f"data={tmp_path}/photos"), "data.name", "folder")


def test_inception_without_weights_is_one_sentence(
    spire, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "empty"))
    for name in ("http_proxy", "https_proxy"):  # nothing listens there: offline, whatever the host
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    said = spire("run", "smoke", "eval.extractor=inception-v3-compat", "resources.pool=local")
    *before, last = said.err.splitlines()
    assert said.code == 2
    assert "inception-v3-compat" in last
    assert "eval.extractor_weights=PATH" in last
    assert all(line.startswith("Downloading") for line in before)


@pytest.mark.parametrize("verb", [[], *VERBS])
def test_every_verb_explains_itself(spire, verb: list[str]) -> None:
    said = spire(*verb, "--help")
    assert said.code == 0
    assert said.out.startswith("Usage: " + " ".join(["spire", *verb]))
    assert ("smoke" in said.out) == (verb[:1] in (["run"], ["sweep"]) or verb[1:] == ["show"])


def test_heavy_packages_are_imported_when_they_are_needed() -> None:
    """Neither for `--help`, nor torch before Ray starts, nor others before a run needs them."""
    code = """import sys, sweeps.cli
sweeps.cli.main(["--help"])
found = {"torch", "ray", "mlflow", "matplotlib", "numpy", "yaml"} & {*sys.modules}
import pipeline.data.fetch, pipeline.experiment.launch
found |= {"torch"} & {*sys.modules}
import pipeline.experiment.run
sys.exit(len(found | {"ray", "matplotlib", "mlflow"} & {*sys.modules}))"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


STORE = "tracking.uri=http://me:hunter2@127.0.0.1:9"  # where nothing listens


def test_dry_run_is_one_object(spire, monkeypatch: pytest.MonkeyPatch) -> None:
    """It plans on the cluster that a run would use, and shows no password."""
    nodes = [{"CPU": 2.0, "GPU": 0.0}] * 2
    monkeypatch.setattr("pipeline.cluster.session.cluster", contextlib.nullcontext)
    monkeypatch.setattr("pipeline.cluster.session.cluster_nodes", lambda: nodes)
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    monkeypatch.setattr("pipeline.tracking.tracker.check_store", lambda config: None)
    words = ["method=spire", "seed=3", "resources.num_cpus=2", STORE]
    said = spire("run", "--dry-run", "smoke", "--json", *words)
    told = json.loads(said.out)
    assert (said.code, told["resources"]["actors"]["num_actors"]) == (0, 2)
    assert told["config"]["method"]["name"] == "spire"
    assert told["config"]["tracking"]["uri"] == "http://me:***@127.0.0.1:9"
    assert told["config_fingerprint"] == fingerprint(load_config("smoke", ["seed=3"]))
    assert told["params_trainable_new_client"] == 16
    clients = told["partition"]["clients"]
    assert [c["is_new"] for c in clients] == [False] * 6 + [True] * 2
    assert all(sum(n > 0 for n in c["class_counts"]) == 2 for c in clients)  # pathological, k = 2
    assert all(c["num_train"] == 64 for c in clients if c["is_new"])
    for client in clients:  # of new ones alone it is known how far the others cover them
        assert client["is_new"] == ("hull_tv" in client)
        assert client.get("hull_tv", 0.0) <= client.get("nearest_tv", 1.0)
    for name in ("hull_tv", "nearest_tv"):
        mean = sum(c[name] for c in clients if c["is_new"]) / 2
        assert told["partition"]["world"][name] == pytest.approx(mean, abs=1e-5)


def test_a_mistake_shows_no_password(spire) -> None:
    said = spire("run", "smoke", "seed=http://me:hunter2@127.0.0.1:9")
    assert_one_sentence(said, "seed", "http://me:***@127.0.0.1:9")


def test_an_interrupt_is_no_traceback(spire, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("pipeline.data.fetch.fetch", interrupt)
    said = spire("data", "fetch", "mnist")
    assert (said.code, said.out, said.err) == (130, "", "spire data fetch: interrupted\n")


# --- a finished run: draw from it, and add a client ---------------------------------------------


def test_a_client_arrives_is_fitted_and_can_be_drawn(spire, finished_run: Path) -> None:
    backbone = (finished_run / "model" / "backbone.safetensors").read_bytes()
    said = spire("adapt", "tiny", "--data", "mnist", "--classes", "3,7", "adapt.lr=0.05", "--json")
    told = json.loads(said.out)
    assert (told["client_id"], told["num_train"], told["num_trained"]) == (8, 8, 16)
    assert told["num_test"] == round(0.25 * (1010 + 1028))  # of the test split's threes and sevens
    assert [point["epoch"] for point in told["curve"]] == [0, 1]
    assert told["diagnoses"] == []
    assert set(told["curve"][1]) >= {"own_kid", "tv", "heldout_loss"}
    assert "population_kid" not in told["curve"][1]
    assert (finished_run / "model" / "backbone.safetensors").read_bytes() == backbone
    assert SavedRun.load(finished_run).client_state(8).parts["client_emb"].abs().max() > 0

    drawn = json.loads(spire("sample", "last", "--client", "8", "--num", "3", "--json").out)
    images = np.load(drawn["artifacts"]["npz"])["images"]
    assert images.shape == (3, 1, 16, 16)
    assert np.array_equal(images, SavedRun.load(finished_run).draw(8, 3))
    with Image.open(drawn["artifacts"]["png"]) as picture:
        assert picture.mode == "RGB"


def test_a_client_arrives_with_a_budget_that_its_file_carries(spire, finished_run: Path) -> None:
    adapt = ("adapt", "tiny", "--data", "mnist", "privacy.adapt.steps=2")
    told = json.loads(spire(*adapt, "--epsilon", "4", "--client", "30", "--json").out)
    assert told["privacy"]["epsilon"] == pytest.approx(4.0, abs=1e-6)
    assert told["privacy"]["delta"] == 1 / 80  # of 8 images to learn from
    assert (told["privacy"]["unit"], told["privacy"]["dp"]) == ("one image", "secret")
    assert [point["train_loss"] for point in told["curve"]] == [None] * 3
    with safe_open(told["artifacts"]["client"], "pt") as file:
        header = file.metadata()
    assert (header["client_id"], header["privacy.mechanism"]) == ("30", "dp_sgd")
    assert float(header["privacy.epsilon"]) == told["privacy"]["epsilon"]
    again = ("--epsilon", "2", "privacy.noise_key=k", "--client")
    text = spire(*adapt, *again, "31").out
    assert re.search(r"^privacy.delta +0.0125", text, re.MULTILINE)
    spire(*adapt, *again, "32")
    keyed = [SavedRun.load(finished_run).client_state(c).parts["client_emb"] for c in (30, 31, 32)]
    assert not torch.equal(keyed[0], keyed[1])
    assert not torch.equal(keyed[1], keyed[2])  # a client's noise is its own


def test_arrivals_take_the_next_free_id_and_no_taken_one(spire, finished_run: Path) -> None:
    adapt = ("adapt", "last", "--data", "mnist", "--num-images", "4")
    assert json.loads(spire(*adapt, "--client", "20", "--json").out)["client_id"] == 20
    assert re.search(r"^client_id +21", spire(*adapt).out, re.MULTILINE)
    assert "expected a client id that is free, got 20: 22" in spire(*adapt, "--client", "20").err
    assert "expected a client id that is free, got 0: 22" in spire(*adapt, "--client", "0").err
    run = SavedRun.load(finished_run)
    with reserved_id(run) as first, reserved_id(run) as second:  # as two processes would
        assert (first, second) == (22, 23)
        assert "a client id that is free, got 22: 23" in spire(*adapt, "--client", "22").err
    with contextlib.suppress(ZeroDivisionError), reserved_id(run):
        raise ZeroDivisionError
    with reserved_id(run) as again:
        assert again == 22  # it has never been saved


@pytest.mark.parametrize(
    ("argv", "parts"),
    [
        (["adapt", "last", "--data", "nowhere"], ["nowhere", "mnist"]),
        (["adapt", "last", "--data", "mnist", "--classes", "12"], ["12", "--classes"]),
        (["adapt", "last", "--data", "mnist", "model.d_emb=3"], ["model.d_emb=3", "adapt"]),
        (["adapt", "last", "--data", "mnist", "adapt.epoch=3"], ["adapt.epoch"]),
        (["adapt", "last", "--data", "mnist", "--epsilon", "0"], ["epsilon in (0, 100]", "0.0"]),
        (["adapt", "last", "--data", "mnist", "--epsilon", "null"], ["--epsilon", "'null'"]),
        (["sample", "last", "--client", "77"], ["77"]),
        (["sample", "last", "--guidance", "2"], ["a client with guidance"]),
        (["sample", "nobody"], ["nobody", "tiny"]),
    ],
)
def test_a_mistake_with_a_finished_run_is_one_sentence(
    spire, finished_run: Path, argv: list[str], parts: list[str]
) -> None:
    assert_one_sentence(spire(*argv), *parts)


def test_a_folder_of_images_equals_the_same_images_of_a_data_set(
    finished_run: Path, mnist_root: Path, tmp_path: Path
) -> None:
    pixels = np.load(mnist_root / "mnist.npz")["test_images"][:12, 0]
    labels = np.load(mnist_root / "mnist.npz")["test_labels"][:12]
    for i, (image, label) in enumerate(zip(pixels, labels, strict=True)):
        for folder in (tmp_path / "by_class" / str(label), tmp_path / "flat"):
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(folder / f"{i:02}.png")
    run = SavedRun.load(finished_run)
    known = load_arrival(run, "mnist", root=str(mnist_root)).images
    flat = load_arrival(run, str(tmp_path / "flat"))
    assert np.array_equal(flat.images, known[:12])
    assert flat.mixture is None
    sevens = load_arrival(run, str(tmp_path / "by_class"), ["7"])
    assert np.array_equal(sevens.images, known[:12][labels == 7])
    assert sevens.mixture is not None
    assert sevens.mixture.tolist() == np.eye(10)[7].tolist()


def test_too_few_or_broken_images_are_named(spire, finished_run: Path, tmp_path: Path) -> None:
    (tmp_path / "few").mkdir()
    said = spire("adapt", "last", "--data", "few")
    assert_one_sentence(said, "few", "expected images")
    for name in ("1.png", "2.png"):
        Image.new("L", (16, 16)).save(tmp_path / "few" / name)
    said = spire("adapt", "last", "--data", "few")
    assert (said.code, said.out) == (2, "")
    assert "at least 3 images of the new client, got 2" in said.err.splitlines()[-1]
    (tmp_path / "few" / "a.png").write_bytes(b"no image")
    assert_one_sentence(spire("adapt", "last", "--data", "few"), "a.png")


def test_an_answer_that_finds_no_room_is_one_sentence(finished_run: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pipeline", "sync"]
    with open("/dev/full", "w") as full:
        ended = subprocess.run(command, cwd=tmp_path, stdout=full, stderr=-1, text=True)
    assert ended.returncode == 2
    assert ended.stderr.startswith("spire sync: expected files that can be used")
    assert ended.stderr.count("\n") == 1


# --- progress -----------------------------------------------------------------------------------


def test_progress_without_a_terminal_is_a_line_each_tenth() -> None:
    stream = io.StringIO()
    progress = Progress(stream)
    driver: Any = None
    progress.begin_rounds(range(45))
    for i in range(45):
        progress.after_round(RoundStats(i, 0.5, 0, 0, 1, 0, 0.2, 0.1, 0.0, 0.0), driver)
    lines = stream.getvalue().splitlines()
    assert len(lines) == 10
    assert lines[-1].startswith("round 45/45  loss 0.5000, 0.30 s, 00:00 left")
