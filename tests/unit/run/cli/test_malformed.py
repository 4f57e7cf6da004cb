"""What a stranger hands over: each input is one sentence and exit code 2, or a run that is right.

Nothing may end in a traceback, leave files behind when it is refused, or run code.
"""

import base64
import contextlib
import http.server
import io
import itertools
import json
import os
import pickle
import shutil
import sqlite3
import struct
import threading
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mlflow import MlflowClient
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from pipeline.cli.command import one_line
from pipeline.config.load import load_config
from pipeline.config.meaning import fingerprint
from pipeline.runs.ownership import Begun, note_begun
from pipeline.tracking.outbox import Outbox, num_waiting, parse_entry, read_points
from spire_core.errors import ConfigError
from sweeps import cli

FIXED = settings(
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
TINY = ["tracking.enabled=false", "resources.pool=local", "partition=iid"]
TINY += ["partition.client_size=40", "federation.num_clients=2", "federation.num_new_clients=1"]
TINY += ["federation.cohort_size=2", "federation.num_rounds=2", "federation.tau=1"]
TINY += ["adapt.epochs=1", "adapt.num_images=4", "diffusion.sample_steps=1", "eval.every=0"]
TINY += ["eval.num_images=4", "eval.num_loss_images=4", "eval.kid_num_subsets=1"]
TINY += ["tracking.checkpoint_every=1"]
DRY = ["run", "--dry-run", "smoke", "resources.pool=local"]


def files_below(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def judge(*argv: str, may_wait: bool = False) -> int:
    """Run the command here; its exit code, after a check that it is 0, or 2 with one sentence.

    `may_wait`: the exit code of `spire sync` may also be 1, with entries that wait.
    """
    return answer(*argv, codes=(0, 1, 2) if may_wait else (0, 2))[0]


def answer(*argv: str, codes: tuple[int, ...] = (0, 2)) -> tuple[int, str]:
    """Do as `judge`, and return the sentence as well."""
    before, out, err = files_below(Path.cwd()), io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = cli.main(argv)
        except SystemExit as stopped:  # argparse's own way out
            code = stopped.code
    told = err.getvalue()
    assert code in codes, told
    assert "Traceback" not in told
    if code == 2:
        assert out.getvalue() == ""
        assert told.startswith(f"spire {argv[0]}"), told
        assert told.count("\n") == 1, told
        assert len(told) < 1200
        assert all(c.isprintable() for c in told[:-1]), told
        assert argv[0] == "resume" or files_below(Path.cwd()) == before
    return int(code), told


@pytest.fixture(autouse=True)
def here(mnist_root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("SPIRE_DATA", str(mnist_root))
    monkeypatch.setenv("STRANGE_SECRET", "hunter2")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


class Evil:
    """Unpickled, it leaves a file behind."""

    def __reduce__(self) -> tuple:
        return Path.touch, (Path("unpickled"),)


# --- overrides ----------------------------------------------------------------------------------

KEYS = ["seed", "federation.num_rounds", "client.lr", "data.image_size", "model.multipliers"]
KEYS += ["adapt.init", "tracking.uri", "adapt.guidance", "federation", "method.local_layers"]
KEYS += ["method", "eval.metrics"]
ODD_VALUES = ["1e308", "1" + "0" * 30, ".nan", "-.inf", "true", "[[1]]", "{a: 1}", "a\0b"]
ODD_VALUES += ["[", "{", "'", "&a 1", "*a", "!!python/object/apply:os.system ['id']", "!!set {a}"]
ODD_VALUES += ["${oc.env:STRANGE_SECRET}", "${seed}", "${", "???", "0x" + "f" * 5000, "9" * 5000]
ODD_VALUES += ["[" * 3000, "x" * 200_000, "---\n1\n---\n2", "{[1]: 2}", "\u202eabc", "-1e400"]

ODD_WORDS = ["=", "==", "a=", "=a", ".=1", "a..b=1", ".seed=1", "seed.=1", "client..lr=1", "[=1"]
ODD_WORDS += ["client[0]=1", "client.lr.x=1", "a]=1", "🙂=1", "\u202eseed=1", "se\0ed=1", " seed=1"]
ODD_WORDS += ["${seed}=1", "*=1", "client={lrr: 1}", "client=[]", "data=[mnist]", "__class__=1"]
ODD_WORDS += ["client.__class__=1", "a." * 2000 + "b=1", "a" * 100_000 + "=1", "seed.x=1"]
ODD_WORDS += ["federation.tau=null", "tracking.experiment=''", "\x1b[31m=1"]

TOO_LARGE = ["model.width=1000000000", "model.d_emb=1000000000000", "model.multipliers=[1000000]"]
TOO_LARGE += ["model.multipliers=[" + "1," * 5000 + "1]", "model.num_blocks=1000000000"]
TOO_LARGE += ["model.cond_dim=1000000000000", "model.cond_dim=0", "model.cond_dim=-5"]
TOO_LARGE += ["model.space_to_depth=0", "model.space_to_depth=-2", "model.space_to_depth=1000"]
TOO_LARGE += ["federation.num_clients=1000000000", "federation.num_new_clients=1000000000"]
TOO_LARGE += ["federation.num_clients=-1", "federation.cohort_size=1000000000"]
TOO_LARGE += ["federation.num_rounds=1000000000000", "federation.tau=1000000000000"]
TOO_LARGE += ["federation.client_timeout_s=1e18", "adapt.epochs=1000000000000", "adapt.lr=1e18"]
TOO_LARGE += [
    "data.image_size=1000000",
    "data.image_size=-1",
    "diffusion.num_timesteps=10000000000",
]
TOO_LARGE += ["eval.num_images=1000000000000", "eval.kid_num_subsets=1000000000000"]
TOO_LARGE += ["eval.num_clients=-1", "eval.num_clients=0", "eval.guidance=1e18", "eval.every=-1"]
TOO_LARGE += ["resources.num_actors=1000000000000", "resources.num_cpus=1e18"]
TOO_LARGE += ["resources.num_cpus=1e-320", "resources.num_gpus=1e18", "resources.num_gpus=1e-300"]
TOO_LARGE += ["client.batch_size=1000000000000", "client.warmup_rounds=-5", "client.lr=1e18"]
TOO_LARGE += ["partition.max_retries=1000000000000", "partition.alpha=.inf", "seed=9" + "0" * 40]
TOO_LARGE += ["partition={name: shard, shards_per_client: 1000000000}", "server.lr=1e18"]


@pytest.mark.parametrize(
    "words",
    [
        ["resume", "last", "tracking.root=~nosuchuser/x"],
        [*DRY, "data.root=~nosuchuser/x"],
        [*DRY, "data=folder", "data.image_size=16", "data.path=~nosuchuser/x"],
        [*DRY, "method=local", "federation.num_new_clients=0"],
        ["resume", "~nosuchuser/x"],
        ["theory", "theorem", "--out", "~nosuchuser/x"],
    ],
)
def test_a_place_or_a_run_that_cannot_be_is_refused(words: list[str]) -> None:
    assert judge(*words) == 2


def test_doctor_says_that_an_address_is_none(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for address, fault in (
        ("http://host:port", "a port is a number"),
        ("http://host:9", "no answer"),
    ):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        assert cli.main(["doctor"]) == 0
        said = capsys.readouterr().out
        assert f"- {address}: " in said
        assert fault in said
    assert str(Path(__file__).parents[4] / "docs") in said  # where the pages are


class Healthy(http.server.BaseHTTPRequestHandler):
    asked: ClassVar[list[tuple[str, str | None]]] = []

    def do_GET(self) -> None:
        self.asked.append((self.path, self.headers.get("Authorization")))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


def test_doctor_asks_a_server_whose_address_has_a_password(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with http.server.HTTPServer(("127.0.0.1", 0), Healthy) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        monkeypatch.setenv(
            "MLFLOW_TRACKING_URI", f"http://me:p%40ss@127.0.0.1:{server.server_port}"
        )
        assert cli.main(["doctor"]) == 0
    assert "no answer" not in capsys.readouterr().out
    assert Healthy.asked == [("/health", "Basic " + base64.b64encode(b"me:p@ss").decode())]


@pytest.mark.parametrize("key", KEYS)
def test_a_value_that_is_none_is_refused(key: str) -> None:
    for value in ODD_VALUES:
        if value != "[[1]]" or key != "method.local_layers":
            assert judge(*DRY, f"{key}={value}") == 2, value[:50]


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("method=null", "expected method.name as str, got None: such as method=spire"),
        ("method.name=5", "expected method.name as str, got 5: such as method=spire"),
        ("data=null", "expected data.name as str, got None: "),
        ("eval.metrics=[1]", "expected eval.metrics as a list of str values, got [1]: name"),
        ("eval.metrics=[null]", "expected eval.metrics as a list of str values, got [None]: name"),
        (
            "partition.hidden=[7]",
            "expected partition.hidden as a list of str values, got [7]: quote texts such as "
            """numbers, 'partition.hidden=["7"]'""",
        ),
        ("eval.metrics=null", "expected a list for eval.metrics, got None: such as"),
        ("eval.metrics=5", "expected a list for eval.metrics, got 5: such as"),
    ],
)
def test_a_name_that_is_no_text_is_refused(word: str, told: str) -> None:
    for verb, name in (("run", "smoke"), ("sweep", "a.yaml")):
        Path("a.yaml").write_text("preset: smoke")
        code, said = answer(verb, "--dry-run", name, word)
        assert code == 2
        assert f"spire {verb}: {told}" in said


@pytest.mark.parametrize("address", ["a..b:6379", "127.0.0.1:" + "9" * 5000])
def test_an_address_that_is_none_is_refused(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    code, said = answer("sweep", "--dry-run", "smoke")
    assert code == 2
    assert said.startswith(f"spire sweep: expected a Ray head at RAY_ADDRESS={address[:20]}")


@pytest.mark.parametrize("words", [ODD_WORDS, TOO_LARGE], ids=["odd", "too_large"])
def test_an_override_that_is_none_or_absurd_is_refused(words: list[str]) -> None:
    for word in words:
        assert judge(*DRY, word) == 2, word[:50]


@settings(FIXED, max_examples=25)
@given(
    st.sampled_from([*KEYS, "data.path", "tracking.root", "eval.extractor_weights"]),
    st.text(max_size=30) | st.integers().map(str) | st.floats().map(str),
)
def test_whatever_is_typed_is_refused_or_taken(key: str, value: str) -> None:
    judge("resume", "nobody", f"{key}={value}")
    judge("data", "show", "nopreset", f"{key}={value}")
    with contextlib.suppress(ConfigError):
        config = load_config("smoke", [f"{key}={value}"])
        assert fingerprint(load_config("smoke", [f"{key}={value}"])) == fingerprint(config)


# --- YAML files of sweeps and theory ------------------------------------------------------------


def bomb() -> str:
    rows = [f"{b}: &{b} [{','.join([f'*{a}'] * 9)}]" for a, b in itertools.pairwise("abcdefghi")]
    return "\n".join(["a: &a [x,x,x,x,x,x,x,x,x]", *rows])


YAML = {
    "nul": b"\0",
    "bomb": bomb().encode(),
    "deep": b"[" * 100_000,
    "deep_map": "".join(" " * i + "a:\n" for i in range(300)).encode(),
    "garbage": bytes(range(256)) * 4000,
    "over_a_megabyte": b"a: b\n" * 250_000,
    "utf16": "preset: smoke".encode("utf-16"),
    "list": b"- a",
    "number": b"5",
    "text": b"hello",
    "tag": b"preset: !!python/object/apply:os.system ['touch pwned']",
    "environment": b"settings: {tracking.run_name: '${oc.env:STRANGE_SECRET}'}",
    "keys_of_two_kinds": b"settings: {1: 2, a: 3}",
    "many_documents": b"---\na: 1\n---\nb: 2",
    "twice": b"name: a\nname: b",
    "merge": b"a: {x: 1}\n<<: {b: 1}",
    "unknown": b"nmae: x",
}
SWEEPS = ["preset: [1]", "preset: null", "seeds: [true]", "seeds: []", "seeds: [1, 1]"]
SWEEPS += [f"seeds: [1{'0' * 30}]", "axes: 5", "axes: {client.lr: []}", "axes: {client.lr: [[1]]}"]
SWEEPS += ["axes: {client.lr: [.nan]}", "axes: {client.lr: {min: 1, max: 2}}", "axes: {'': [1]}"]
SWEEPS += ["search: optuna\nnum_trials: 3\naxes: {client.lr: {min: 1, max: .inf}}"]
SWEEPS += ["search: random\nnum_trials: 3\naxes: {client.lr: {min: .nan, max: 2}}"]
SWEEPS += ["search: random\nnum_trials: 1000000000000\naxes: {client.lr: [1]}"]
SWEEPS += ["search: random\nnum_trials: -1\naxes: {client.lr: [1]}", "name: ../../x", "name: ''"]
SWEEPS += ["axes:\n" + "\n".join(f"  axis{i}: [{','.join('0123456789')}]" for i in range(9))]
SWEEPS += [f"name: {'x' * 2000}", "name: 🙂", "budget_s: .nan", "metric: [1]", "settings: [1]"]
SWEEPS += ["settings: {a: {b: {c: 1}}}", "settings: {client.lr: {x: 1}}", "settings: {'': 1}"]
SWEEPS += ["max_failures: 1.5", "report: maybe", "axes: {model.width: [1000000000]}", "seed: 1"]
THEORY = ["seed=1e400", "w=2", "w=.nan", "c=0", "c=1e308", "replicates=1000000000000"]
THEORY += ["scaling.d=1000000000000", "scaling.nums=[]", "scaling.nums=[0]", "scaling.nums=5"]
THEORY += ["scaling.dims=[1.5]", "experiments=[x]", "experiments=scaling", "scaling=5", "a=1"]
THEORY += ["components.shapes=[general-1000000000]", "components.shapes=[general-0]"]
THEORY += ["components.means=[[1],[2,3]]", "components.means=[[.nan]]", "components.means=5"]
THEORY += ["components.concentration=1e-320", "components.signal=1", "backbone.skew=1e-320"]
THEORY += ["backbone.sizes=[]", "backbone.sizes=[-1]", "backbone.clients=[]", "failure.times=[]"]
THEORY += ["failure.dims=[]", "optimiser.weights=[2]", "bridge.separations=[1e308]"]
THEORY += ["readout.data=x", "readout.dims=[]", "landscape.weights=[0]", "backbone.m_t=2"]
THEORY += ["tracking.root=${oc.env:STRANGE_SECRET}", "scaling.steps=0", "scaling.averaged=0"]


@pytest.mark.parametrize("name", YAML)
def test_a_file_that_holds_no_settings_is_refused(name: str) -> None:
    Path("a.yaml").write_bytes(YAML[name])
    assert judge("sweep", "--dry-run", "a.yaml") == 2
    assert judge("theory", "--dry-run", "a.yaml") == 2


def test_sweeps_and_theories_that_make_no_sense_are_refused() -> None:
    for text in SWEEPS:
        Path("a.yaml").write_text(text)
        assert judge("sweep", "--dry-run", "a.yaml") == 2, text
    for word in THEORY:
        assert judge("theory", "--dry-run", "all", word) == 2, word


def test_files_that_are_none_are_refused() -> None:
    Path("folder.yaml").mkdir()
    Path("loop.yaml").symlink_to("loop.yaml")
    os.mkfifo("pipe.yaml")
    names = [
        "folder.yaml",
        "loop.yaml",
        "pipe.yaml",
        "a\0b",
        "x" * 5000,
        "~nobody/x",
        "",
        "/dev/zero",
    ]
    for name in names:
        assert judge("sweep", "--dry-run", name) == 2, name[:50]
        assert judge("theory", "--dry-run", name) == 2, name[:50]


@pytest.mark.parametrize("text", [b"", b"null", b"preset: smoke\r\n", b"\xef\xbb\xbfpreset: smoke"])
def test_empty_files_and_those_of_other_systems_are_taken(text: bytes) -> None:
    Path("a.yaml").write_bytes(text)
    assert judge("sweep", "--dry-run", "a.yaml", "resources.pool=local") == 0


# --- a saved run --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pristine(mnist_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with one finished run, `r`, of two rounds and two clients and a new one."""
    folder = tmp_path_factory.mktemp("pristine")
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()):
        patch.setenv("SPIRE_DATA", str(mnist_root))
        patch.chdir(folder)
        assert cli.main(["run", "smoke", "--quiet", *TINY]) == 0
    run = next(folder.glob("runs/*/tracking.json")).parent
    record = json.loads((run / "tracking.json").read_text())
    (run / "tracking.json").write_text(json.dumps(record | {"run_id": "r"}))
    run.rename(folder / "runs" / "r")
    return folder


def damages(data: bytes) -> list[bytes]:
    """What may have become of a file: cut off, bits flipped, another file in its place."""
    found = [data[: int(len(data) * share)] for share in (0, 0.01, 0.3, 0.9, 0.99)]
    for at in (0, 3, 7, 8, 9, len(data) // 3):
        flipped = bytearray(data)
        flipped[at % len(data)] ^= 1 << at % 8
        found.append(bytes(flipped))
    found += [pickle.dumps(Evil()), struct.pack("<Q", 2**62) + data[8:], bytes(range(256)) * 20]
    found += [b"[]", b"{}", b"null", b"[" * 100_000, b"\xff\xfe{\0}\0", b'{"a": 1e999}']
    return found


def wrong_values(data: bytes) -> list[bytes]:
    """A JSON object's text with each value missing or of another kind."""
    told, found = json.loads(data), []
    for key in told:
        rest = {k: v for k, v in told.items() if k != key}
        odd = [None, [], {}, -1, "\u202e", 10**30, True]
        found += [json.dumps(rest), *(json.dumps(rest | {key: value}) for value in odd)]
    return [text.encode() for text in found]


def fresh(pristine: Path, is_finished: bool = True) -> Path:
    """Put a copy of the run here, and return its folder."""
    shutil.rmtree("runs", ignore_errors=True)
    shutil.copytree(pristine / "runs", "runs")
    run = Path("runs", "r")
    if not is_finished:
        (run / "result.json").unlink()
        shutil.rmtree(run / "model")
    return run


SAMPLE = ("sample", "r", "--client", "2", "--num", "2")


@pytest.mark.parametrize(
    ("name", "argv", "is_finished"),
    [
        ("model/config.json", SAMPLE, True),
        ("model/backbone.safetensors", SAMPLE, True),
        ("model/clients/client_2.safetensors", SAMPLE, True),
        ("tracking.json", ("sample", "r", "--num", "1"), True),
        ("result.json", ("resume", "r"), True),
        ("config.json", ("resume", "r", "--quiet"), False),
        ("clients/0000000/0000002.safetensors", ("resume", "r", "--quiet"), False),
        ("evaluations/0000002.safetensors", ("resume", "r", "--quiet"), False),
    ],
)
def test_a_damaged_file_of_a_run_is_named(
    pristine: Path, name: str, argv: tuple[str, ...], is_finished: bool
) -> None:
    run = fresh(pristine, is_finished)
    data = (run / name).read_bytes()
    inputs = damages(data) + (wrong_values(data) if name.endswith(".json") else [])
    inputs = inputs[:: 1 if is_finished else 3]  # to resume takes longer
    codes, sentences = list[int](), list[str]()
    for content in inputs:
        if 0 in codes[-1:]:  # it ran, and has left what it drew
            run = fresh(pristine, is_finished)
        (run / name).write_bytes(content)
        code, told = answer(*argv)
        codes.append(code)
        sentences += [told] if code == 2 else []
    # A value of another kind may show elsewhere in the run: then its folder is named.
    assert [told for told in sentences if Path(name).name not in told and "/runs" not in told] == []
    if sentences:
        assert sum(Path(name).name in told for told in sentences) > len(sentences) / 2
    if is_finished and name != "result.json":  # a flipped bit may make another number
        assert codes.count(2) > len(inputs) // 2
    elif not name.endswith(".json"):  # it goes back to files that are whole
        assert set(codes) == {0}
    assert not Path("unpickled").exists()


def test_a_damaged_checkpoint_is_passed_over_or_named(pristine: Path) -> None:
    for name, contents in (
        ("manifest.json", (b"[]", b'{"sha256": []}')),
        ("server.safetensors", (b"", pickle.dumps(Evil()))),
    ):
        for content in contents:
            run = fresh(pristine, is_finished=False)
            (run / "checkpoints" / "0000002" / name).write_bytes(content)
            assert code_of("resume", "r", "--quiet") == 0
    assert not Path("unpickled").exists()


def contents(folder: Path) -> dict[str, bytes]:
    paths = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


RESUME = ("resume", "r", "--quiet")


@pytest.mark.parametrize(
    ("name", "argv"),
    [
        ("tracking.json", RESUME),
        ("tracking.json", ("sync", "r")),
        ("config.json", RESUME),
        ("checkpoints/0000002/manifest.json", RESUME),
        ("clients/0000000/0000002.safetensors", RESUME),
        ("evaluations/0000002.safetensors", RESUME),
        ("model/config.json", SAMPLE),
    ],
)
def test_a_newer_format_is_refused_and_kept(
    pristine: Path, name: str, argv: tuple[str, ...]
) -> None:
    path = fresh(pristine, is_finished=argv == SAMPLE) / name
    for number in (2, 10**30):
        if path.suffix == ".json":
            values = json.loads(path.read_text()) | {"run_format": number}
            path.write_text(json.dumps(values))
        else:
            with safe_open(path, framework="np") as file:
                texts = file.metadata()
            save_file(load_file(path), path, texts | {"run_format": str(number)})
        before = contents(Path("runs"))
        code, told = answer(*argv)
        assert code == 2
        assert f"got format {number}, of a newer version: use that version" in told
        assert contents(Path("runs")) == before


@pytest.fixture
def tracked(pristine: Path, new_database: Path) -> Path:
    """An own run with entries for a store that knows it."""
    shutil.copy(new_database, "mlflow.db")
    uri = f"sqlite:///{Path('mlflow.db').absolute()}"
    run_id = MlflowClient(uri).create_run("0").info.run_id
    run = fresh(pristine).rename(Path("runs", run_id))
    record = json.loads((run / "tracking.json").read_text())
    record |= {"run_id": run_id, "tracked": True, "uri": uri}
    (run / "tracking.json").write_text(json.dumps(record))
    artifacts = MlflowClient(uri).get_run(run_id).info.artifact_uri
    note_begun(Path.cwd(), run_id, Begun(uri, (artifacts,), {}))
    outbox = Outbox(run)
    outbox.append("params", params={"seed": "0"})
    outbox.append_points([(1, {"pretrain/loss": 0.5})])
    outbox.append("status", status="FINISHED")
    return run


@pytest.mark.parametrize("name", ["outbox.jsonl", "outbox.done", "outbox.refused.jsonl", "begun"])
def test_a_damaged_file_of_a_delivery_stops_nothing(tracked: Path, name: str) -> None:
    before = contents(Path.cwd())
    path = Path("begun", f"{tracked.name}.json") if name == "begun" else tracked / name
    data = path.read_bytes() if path.exists() else b"0\n"
    inputs = [*damages(data), *(wrong_values(data) if name == "begun" else [])]
    for i, content in enumerate(inputs):
        for other, bytes_ in before.items():  # with the database, which has nothing then
            Path(other).write_bytes(bytes_)
        path.write_bytes(content)
        if i % 3 == 0:
            judge("sync", tracked.name, may_wait=True)
        else:
            assert judge("sync", may_wait=True) != 2, content
    assert not Path("unpickled").exists()


def code_of(*argv: str) -> int:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        return cli.main(argv)


@pytest.mark.parametrize("change", ["nan", "float64", "shape", "extra", "missing"])
def test_tensors_that_do_not_fit_are_refused(pristine: Path, change: str) -> None:
    for name in ("backbone", "clients/client_2"):
        path = fresh(pristine) / "model" / f"{name}.safetensors"
        tensors = load_file(path)
        first = min(tensors)
        value = tensors[first].copy()
        if change == "nan":
            value.flat[0] = np.nan
        tensors[first] = {"float64": value.astype(float), "shape": value.ravel()[:-1]}.get(
            change, value
        )
        if change == "extra":
            tensors["more"] = value
        if change == "missing":
            del tensors[first]
        save_file(tensors, path)
        assert judge(*SAMPLE) == 2


def test_a_damaged_run_stops_no_other(pristine: Path, caplog: pytest.LogCaptureFixture) -> None:
    shutil.copytree(fresh(pristine), "runs/damaged")
    Path("runs", "damaged", "tracking.json").write_text("{")
    assert code_of("sample", "last", "--num", "1") == 0
    assert "damaged" in caplog.text
    assert code_of("sync") == 0


@pytest.mark.parametrize("started_ms", [10**30, 10**15, -(10**18)])
def test_a_record_of_no_time_stops_no_other(
    started_ms: int, pristine: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(fresh(pristine), "runs/damaged")
    path = Path("runs", "damaged", "tracking.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"started_ms": started_ms}))
    assert judge("sync", "nobody") == 2
    assert code_of("sample", "last", "--num", "1") == 0
    assert "a run is passed over" in caplog.text


def test_a_result_that_json_cannot_hold_is_damaged(pristine: Path) -> None:
    path = fresh(pristine) / "result.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"seed": float("nan")}))
    code, told = answer(*RESUME, "--json")
    assert code == 2
    assert "result.json" in told


def test_a_run_whose_files_cannot_be_used_stops_no_other(tracked: Path) -> None:
    """The oldest run's lock cannot be opened, as if somebody had made its folder read-only."""
    other = Path("runs", "0" * 32)
    shutil.copytree(tracked, other)
    record = json.loads((other / "tracking.json").read_text())
    record |= {"run_id": other.name, "started_ms": 0}
    (other / "tracking.json").write_text(json.dumps(record))
    num, out = num_waiting(tracked), io.StringIO()
    with contextlib.closing(sqlite3.connect("mlflow.db")) as connection:
        copied = "SELECT * FROM runs WHERE run_uuid = ?"
        row = list(connection.execute(copied, [tracked.name]).fetchone())
        row[0] = other.name
        connection.execute(f"INSERT INTO runs VALUES ({','.join('?' * len(row))})", row)
        connection.commit()
    shutil.copy(f"begun/{tracked.name}.json", f"begun/{other.name}.json")
    (other / "outbox.lock").mkdir()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(io.StringIO()):
        assert cli.main(["sync"]) == 1
    first, second = out.getvalue().splitlines()
    assert first.startswith("00000000")
    assert "outbox.lock" in first
    assert second.endswith(f": {num} delivered")


def test_a_run_that_was_deleted_in_its_store_keeps_what_waits(tracked: Path) -> None:
    client = MlflowClient(f"sqlite:///{Path('mlflow.db').absolute()}")
    client.delete_run(tracked.name)
    assert judge("sync", may_wait=True) == 1
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert cli.main(["sync"]) == 1
    store = f"MLFLOW_TRACKING_URI=sqlite:///{Path('mlflow.db').absolute()}"
    assert f"{store} mlflow runs restore --run-id {tracked.name}" in out.getvalue()
    client.restore_run(tracked.name)
    assert judge("sync") == 0
    assert not (tracked / "outbox.refused.jsonl").exists()
    run = client.get_run(tracked.name)
    assert run.info.status == "FINISHED"
    assert "pretrain/loss" in run.data.metrics


@pytest.mark.parametrize("status", [None, "KILLED"])
def test_a_run_that_was_stopped_after_its_result_gets_its_status(
    status: str | None, tracked: Path
) -> None:
    lines = (tracked / "outbox.jsonl").read_text().splitlines(keepends=True)[:-1]
    (tracked / "outbox.jsonl").write_text("".join(lines))
    if status is not None:
        Outbox(tracked).append("status", status=status)
    client = MlflowClient(f"sqlite:///{Path('mlflow.db').absolute()}")
    assert judge("resume", tracked.name, "tracking.enabled=false") == 0
    assert client.get_run(tracked.name).info.status == "RUNNING"
    assert judge("resume", tracked.name) == 0
    assert client.get_run(tracked.name).info.status == "FINISHED"
    before = (tracked / "outbox.jsonl").read_bytes()
    assert judge("resume", tracked.name) == 0
    assert (tracked / "outbox.jsonl").read_bytes() == before


@settings(FIXED, max_examples=40)
@given(st.binary(max_size=60) | st.recursive(st.none() | st.text(max_size=5), st.lists).map(str))
def test_a_damaged_outbox_says_nothing(line: bytes | str) -> None:
    text = line if isinstance(line, bytes) else line.encode()
    Path("outbox.jsonl").write_bytes(
        text + b'\n{"kind": "metrics", "step": "x", "metrics": []}\n{"kind": ["status"]}\n5\n'
        b'{"kind": "metrics", "time_ms": 0, "step": 3, "metrics": {"a": 1.0}}\n'
    )
    assert read_points(Path.cwd())[-1] == (3, {"a": 1.0})
    assert Outbox(Path.cwd()).has("metrics", "a", 3)
    assert parse_entry(b"[" * 100_000) is None


# --- what the shell hands over ------------------------------------------------------------------

WORDS = [["sample", "r", "--num", "0"], ["sample", "r", "--num", "9" * 5000], ["sample", ""]]
WORDS += [["sample", "r", "--num", "1000000000000"], ["sample", "r", "--client", "9" * 30]]
WORDS += [["sample", "r", "--seed", "x"], ["sample", "r", "--guidance", "nan"]]
WORDS += [["sample", "r", "--guidance", "inf"], ["sample", "r", "--out", "/dev/null/x.png"]]
WORDS += [
    ["sample", "r", "--num", "1", "--out", "a\0b"],
    ["sample", "a\0b"],
    ["sample", "x" * 5000],
]
WORDS += [["sample", "../../../etc"], ["sample", "\x1b[31mred"], ["resume", "\u202e"]]
WORDS += [["adapt", "r", "--data", "mnist", "--classes", "\u0663\u0663\u0663"]]
WORDS += [["adapt", "r", "--data", ""], ["adapt", "r", "--data", "mnist", "--classes", ","]]
WORDS += [["adapt", "r", "--data", "mnist", "--num-images", "-1"], ["report", "'\" OR 1=1"]]
WORDS += [["adapt", "r", "--data", "mnist", "adapt.epochs=1000000000000"], ["report", "a\0b"]]
WORDS += [["sync", "nobody"], ["sync", "a", "b"], ["sync", "tracking.root=a\0b"], ["rum\0"]]


def test_words_that_make_no_sense_are_refused(pristine: Path) -> None:
    fresh(pristine)
    for argv in WORDS[:-1]:
        assert judge(*argv) == 2, argv


@pytest.mark.parametrize("key", ["data.path", "tracking.run_name", "tracking.experiment"])
def test_settings_that_are_no_text_are_refused(key: str, pristine: Path) -> None:
    fresh(pristine)
    word = f"{key}=" + os.fsdecode(b"caf\xe9")
    for argv in (["run", "smoke", word], ["data", "show", "smoke", word], ["resume", "r", word]):
        assert judge(*argv) == 2


def test_a_message_is_one_line_that_no_terminal_obeys() -> None:
    assert one_line("a\nb \x1b[2J\u202e🙂") == "a b \\x1b[2J\\u202e🙂"
    assert len(one_line("x" * 100_000)) < 1100
