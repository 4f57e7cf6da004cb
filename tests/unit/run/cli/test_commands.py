"""The command line: each mistake is one sentence and exit code 2, and `--json` is one object."""

import contextlib
import io
import json
import os
import re
import runpy
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open

from pipeline.cli.main import main as pipeline_main
from pipeline.cli.progress import Progress
from pipeline.cli.tables import change
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
VERBS += [["theory"], ["sweep"], ["report"], ["sync"], ["doctor"], ["audit"], ["export"]]


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


def test_the_versions_are_one_line(spire) -> None:
    said = spire("--version")
    assert said.code == 0
    own = "spire [0-9a-z.]+ \\(python 3[0-9.]+, torch [^ ]+, ray [^ ]+, mlflow [^ ]+\\)\n"
    assert re.fullmatch(own, said.out)


@pytest.mark.parametrize("verb", [["run", "smoke", "--dry-run"], ["data", "show", "smoke"]])
def test_own_images_are_never_taken_for_a_data_set(spire, tmp_path: Path, verb: list[str]) -> None:
    (tmp_path / "photos" / "cats").mkdir(parents=True)
    (tmp_path / "photos" / "cats" / "1.JPG").touch()
    said = spire(*verb, f"data.path={tmp_path}/photos")
    assert_one_sentence(said, "original files of mnist", "the preset folder-cpu, or data.name=")
    assert_one_sentence(spire(*verb, f"data={tmp_path}/photos"), "data.name", "folder")
    (tmp_path / "photos" / "train-images-idx3-ubyte.gz").touch()  # the data set is stored already
    assert spire(*verb, f"data.path={tmp_path}/photos").code == 0


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


def test_help_imports_nothing_heavy() -> None:
    heavy = "{'torch', 'ray', 'mlflow', 'matplotlib', 'numpy', 'yaml'} & set(sys.modules)"
    code = f"import sys, sweeps.cli; sweeps.cli.main(['--help']); sys.exit(len({heavy}))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def test_an_experiment_imports_neither_ray_nor_matplotlib_before_it_needs_them() -> None:
    code = "import sys, pipeline.experiment.run; "
    code += "print({'ray', 'matplotlib', 'mlflow'} & {*sys.modules})"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert said.stdout == "set()\n"


def test_sweeps_as_a_module_has_both_of_its_verbs(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    for words, verb in ((["--help"], "sweep"), (["report", "-h"], "report")):
        monkeypatch.setattr(sys, "argv", ["sweeps", *words])
        with pytest.raises(SystemExit, match="0"):
            runpy.run_module("sweeps", run_name="__main__")
        assert capsys.readouterr().out.startswith(f"Usage: spire {verb}")


def test_spire_as_a_module_is_the_command(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", ["spire", "run", "smoke", "--fast"])
    monkeypatch.setattr(sys, "path", [*sys.path])
    with pytest.raises(SystemExit, match="2"):
        runpy.run_module("spire", run_name="__main__")
    assert "see spire run --help" in capsys.readouterr().err


def test_the_pipeline_says_where_the_verbs_of_sweeps_are(capsys) -> None:
    assert pipeline_main(["report", "smoke"]) == 2
    assert "'report': type spire report, or python -m sweeps" in capsys.readouterr().err


def test_dry_run_is_one_object(spire) -> None:
    said = spire("run", "--dry-run", "smoke", "--json", "method=spire", "seed=3")
    told = json.loads(said.out)
    assert said.code == 0
    assert told["config"]["method"]["name"] == "spire"
    assert told["config_fingerprint"] == fingerprint(load_config("smoke", ["seed=3"]))
    assert told["params_trainable_new_client"] == 16
    clients = told["partition"]["clients"]
    assert [c["is_new"] for c in clients] == [False] * 6 + [True] * 2
    assert all(sum(n > 0 for n in c["class_counts"]) == 2 for c in clients)  # pathological, k = 2
    assert all(c["num_train"] == 64 for c in clients if c["is_new"])
    assert 1 <= told["resources"]["actors"]["num_actors"] <= (os.cpu_count() or 1)
    for client in clients:  # of new ones alone it is known how far the others cover them
        assert client["is_new"] == ("hull_tv" in client)
        assert client.get("hull_tv", 0.0) <= client.get("nearest_tv", 1.0)
    for name, mean in told["partition"]["world"].items():
        assert mean == pytest.approx(sum(c[name] for c in clients if c["is_new"]) / 2, abs=1e-5)
    assert told["partition"]["world"].keys() == {"hull_tv", "nearest_tv"}


def test_dry_run_text_says_who_what_and_where(spire) -> None:
    words = ["smoke", "resources.pool=local"]
    said = spire("run", "--dry-run", *words)
    assert said.code == 0
    assert fingerprint(load_config("smoke", words[1:])) in said.out
    assert "a new client trains 16 of" in said.out
    assert "this process alone" in said.out
    assert "60000 of the training split, each 1 x 16 x 16 (channels" in said.out
    assert re.search(r"^duration +about \d+ s on CPUs such as this machine's", said.out, re.M)
    assert len(re.findall(r"^ *new \d", said.out, re.MULTILINE)) == 2
    assert re.search(r"on average: TV 0\.\d{3} from the convex hull of the others', 0\.", said.out)


def test_a_dry_run_plans_on_the_cluster_that_a_run_would_use(
    spire, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes = [{"CPU": 2.0, "GPU": 0.0}] * 2
    monkeypatch.setattr("pipeline.cluster.session.cluster", contextlib.nullcontext)
    monkeypatch.setattr("pipeline.cluster.session.cluster_nodes", lambda: nodes)
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    words = ["federation.cohort_size=6", "federation.num_clients=6", "resources.num_cpus=2"]
    told = json.loads(spire("run", "--dry-run", "smoke", "--json", *words).out)
    assert told["resources"]["actors"]["num_actors"] == 2


@pytest.mark.parametrize("form", [[], ["--json"]])
@pytest.mark.parametrize("verb", ["run", "sweep"])
def test_a_dry_run_shows_no_password(spire, verb: str, form: list[str]) -> None:
    word = "tracking.uri=http://me:hunter2@127.0.0.1:9"
    said = spire(verb, "--dry-run", "smoke", word, *form)
    assert said.code == 0
    assert "hunter2" not in said.out + said.err
    assert ("http://me:***@127.0.0.1:9" in said.out) == (verb == "run" or form == ["--json"])


@pytest.mark.parametrize("verb", ["run", "sweep"])
def test_a_dry_run_says_that_a_server_does_not_answer(spire, verb: str) -> None:
    said = spire(verb, "--dry-run", "smoke", "tracking.uri=http://me:hunter2@127.0.0.1:9")
    assert said.code == 0
    assert said.err.startswith("a run would end at once: expected an MLflow store at")
    assert "hunter2" not in said.out + said.err


def test_a_mistake_shows_no_password(spire) -> None:
    said = spire("run", "smoke", "seed=http://me:hunter2@127.0.0.1:9")
    assert_one_sentence(said, "seed", "http://me:***@127.0.0.1:9")


def test_run_without_a_preset_takes_the_one_for_newcomers(spire) -> None:
    told = json.loads(spire("run", "--dry-run", "--json").out)
    assert told["preset"] == "mnist-cpu"
    assert told["config_fingerprint"] == fingerprint(load_config("mnist-cpu"))


def test_data_show_tells_and_draws(spire, tmp_path: Path) -> None:
    told = json.loads(spire("data", "show", "smoke", "--json", "--out", "who/holds.png").out)
    assert len(told["clients"]) == 8
    said = spire("data", "show", "smoke").out
    hull, nearest = (f"{told['world'][name]:.3f}" for name in ("hull_tv", "nearest_tv"))
    assert f"on average: TV {hull} from the convex hull of the others', {nearest} from" in said
    with Image.open(tmp_path / "who" / "holds.png") as picture:
        assert picture.width > 100


@pytest.mark.parametrize("num_clients", [100, 101])
def test_data_show_says_of_which_clients_coverage_is(spire, num_clients: int) -> None:
    words = ["partition=independent", "partition.client_size=40"]
    said = spire("data", "show", "smoke", *words, f"federation.num_clients={num_clients}").out
    [coverage] = [line for line in said.splitlines() if "convex hull" in line]
    which = " (at most: of the first 100 clients of each kind)"
    assert coverage.endswith(which) == (num_clients > 100)


def test_data_fetch_leaves_what_is_intact(spire, mnist_root: Path) -> None:
    said = spire("data", "fetch", "mnist", "--json")
    assert json.loads(said.out) == {"name": "mnist", "path": str(mnist_root / "mnist.npz")}
    assert "intact" in said.err


def test_an_interrupt_is_no_traceback(spire, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("pipeline.data.fetch.fetch", interrupt)
    said = spire("data", "fetch", "mnist")
    assert (said.code, said.out, said.err) == (130, "", "spire data fetch: interrupted\n")


def test_stdout_of_libraries_goes_to_stderr(spire, monkeypatch: pytest.MonkeyPatch) -> None:
    def noisy(*args: object, **kwargs: object) -> Path:
        print("a library talks")
        return Path("somewhere")

    monkeypatch.setattr("pipeline.data.fetch.fetch", noisy)
    said = spire("data", "fetch", "mnist", "--json")
    assert json.loads(said.out) == {"name": "mnist", "path": "somewhere"}
    assert said.err == "a library talks\n"


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
    assert "private: epsilon 2 at delta 0.0125 for one image" in text
    assert "simulated noise key" in text
    spire(*adapt, *again, "32")
    keyed = [SavedRun.load(finished_run).client_state(c).parts["client_emb"] for c in (30, 31, 32)]
    assert not torch.equal(keyed[0], keyed[1])
    assert not torch.equal(keyed[1], keyed[2])  # a client's noise is its own


def test_an_arrival_leaves_nothing_beside_the_run(
    spire, finished_run: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    assert spire("adapt", "tiny", "--data", "mnist", "--num-images", "4").code == 0
    assert list(scratch.iterdir()) == []


def test_arrivals_take_the_next_free_id_and_no_taken_one(spire, finished_run: Path) -> None:
    adapt = ("adapt", "last", "--data", "mnist", "--num-images", "4")
    assert json.loads(spire(*adapt, "--client", "20", "--json").out)["client_id"] == 20
    assert "client 21: 16 numbers trained on 4 images" in spire(*adapt).out
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
        (["adapt", "last", "--data", "mnist", "--epsilon", ""], ["--epsilon"]),
        (["adapt", "last", "--data", "mnist", "--epsilon", "null"], ["--epsilon", "'null'"]),
        (["adapt", "last", "--data", "mnist", "--epsilon", "inf"], ["epsilon", "inf"]),
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
    assert_one_sentence(said, "at least 3 images", "got 2")
    (tmp_path / "few" / "a.png").write_bytes(b"no image")
    assert_one_sentence(spire("adapt", "last", "--data", "few"), "a.png")


def test_an_answer_fits_the_encoding_of_stdout(
    finished_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(finished_run.parents[1])
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", out)
    assert cli.main(["sample", "last", "--num", "1", "--out", "\u00e9.png"]) == 0
    assert Path("\u00e9.png").is_file()
    assert "\\xe9.png" in out.buffer.getvalue().decode("ascii")


def test_an_answer_that_finds_no_room_is_one_sentence(finished_run: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pipeline", "sync"]
    with open("/dev/full", "w") as full:
        ended = subprocess.run(command, cwd=tmp_path, stdout=full, stderr=-1, text=True)
    assert ended.returncode == 2
    assert ended.stderr.startswith("spire sync: expected files that can be used")
    assert ended.stderr.count("\n") == 1


def test_a_score_that_nobody_has_is_one_dash() -> None:
    found = [change(*pair) for pair in ((None, None), (None, 1.0), (0.5, 0.25))]
    assert found == ["-", "- -> 1", "0.5 -> 0.25"]


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
    assert lines[-1].startswith("round 45/45  loss 0.5000  0.30 s/round  00:00 left")


def test_the_time_left_is_that_of_a_resumed_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twenty rounds of ten seconds are left, after twenty in this process of a run of 200."""
    clock = iter([1000.0, 1200.0])
    monkeypatch.setattr("pipeline.cli.progress.time.monotonic", lambda: next(clock))
    stream = io.StringIO()
    progress = Progress(stream)
    driver: Any = None
    progress.plan(["fine-tuning 4 pre-training clients", "adapting 3 new clients"])
    progress.begin_rounds(range(160, 200))
    progress.after_round(RoundStats(179, 0.5, 0, 0, 1, 0, 0.2, 0.1, 0.0, 0.0), driver)
    said = "03:20 left, then fine-tuning 4 pre-training clients, then adapting 3 new clients\n"
    assert stream.getvalue().endswith(said)


def test_progress_in_a_terminal_is_one_bar() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Terminal()
    progress = Progress(stream)
    driver: Any = None
    progress.begin_rounds(range(5))
    for i in range(5):
        progress.after_round(RoundStats(i, 0.5, 0, 0, 1, 0, 0.2, 0.1, 0.0, 0.0), driver)
    progress.close()
    assert stream.getvalue().count("\n") == 1
    assert "5/5" in stream.getvalue()
