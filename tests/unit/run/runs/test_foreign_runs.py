"""Runs that somebody sent: nothing of their records decides where anything goes or is read.

A stranger's copy is resumed by its URI (`URI`), by its id once it lies in `runs/` (`id`), by its
path in a whole root of the stranger's (`path`), or delivered by `spire sync`.
"""

import contextlib
import http.server
import io
import json
import logging
import shutil
import sqlite3
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlflow import MlflowClient
from PIL import Image

from pipeline.cli.main import main
from pipeline.config.load import config_from_dict
from pipeline.federation.setup import prepare
from pipeline.tracking.tracker import Tracker

TINY = ["resources.pool=local", "partition=iid", "partition.client_size=40"]
TINY += ["federation.num_clients=2", "federation.num_new_clients=1", "federation.cohort_size=2"]
TINY += ["federation.num_rounds=2", "federation.tau=1", "adapt.epochs=1", "adapt.num_images=4"]
TINY += ["diffusion.sample_steps=1", "eval.every=0", "eval.num_images=4", "eval.num_loss_images=4"]
TINY += ["eval.kid_num_subsets=1", "tracking.checkpoint_every=1", "tracking.log_model=false"]
RESUMES = ("URI", "id", "path")
VERBS = (*RESUMES, "sync")


@dataclass
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str


def spire(*argv: str) -> Ended:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(argv)
    return Ended(code, out.getvalue(), err.getvalue())


@pytest.fixture(scope="module")
def interrupted(mnist_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny run that has told no store, and has all but its end."""
    root = tmp_path_factory.mktemp("stranger")
    words = [*TINY, f"tracking.root={root}", f"data.root={mnist_root}", "tracking.enabled=false"]
    with contextlib.redirect_stdout(io.StringIO()):
        assert main(["run", "smoke", "--quiet", *words]) == 0
    run_dir = next(root.glob("runs/*/tracking.json")).parent
    (run_dir / "result.json").unlink()
    shutil.rmtree(run_dir / "model")
    return run_dir


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs draw none here: their tables go the same ways."""
    monkeypatch.setattr(Tracker, "log_figure", lambda *_: None)


@pytest.fixture(autouse=True)
def home(
    mnist_root: Path, tmp_path: Path, new_database: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """The user's own root, which is the current directory."""
    root = tmp_path / "home"
    (root / "runs").mkdir(parents=True)
    shutil.copy(new_database, root)
    monkeypatch.chdir(root)
    monkeypatch.setenv("SPIRE_DATA", str(mnist_root))
    for name in ("MLFLOW_TRACKING_URI", "SPIRE_ROOT"):
        monkeypatch.delenv(name, raising=False)
    return root


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """A folder of the user's, of which nothing may change."""
    folder = tmp_path / "victim"
    (folder / "20240101").mkdir(parents=True)
    (folder / "20240101" / "photo.jpg").write_text("photo")
    (folder / "notes.txt").write_text("notes")
    return folder


def contents(folder: Path) -> dict[str, str]:
    files = (p for p in folder.rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): p.read_bytes().hex() for p in files}


class Copy:
    """What a stranger sends: a run's folder, of which every file is theirs to write."""

    def __init__(self, root: Path, interrupted: Path, run_id: str = "0123456789abcdef" * 2) -> None:
        self.root, self.run_id, self.folder = root, run_id, root / "runs" / run_id
        shutil.copytree(interrupted, self.folder)
        self.record(run_id=run_id)

    def record(self, **values: Any) -> None:
        path = self.folder / "tracking.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    def set(self, group: str, **values: Any) -> None:
        path = self.folder / "config.json"
        stored = json.loads(path.read_text())
        stored["config"][group] |= values
        path.write_text(json.dumps(stored))

    def tracked_at(self, uri: str) -> None:
        self.record(tracked=True, uri=uri)
        self.set("tracking", enabled=True)
        (self.folder / "artifacts").mkdir(exist_ok=True)
        (self.folder / "artifacts" / "authorized_keys").write_text("ssh-rsa stranger")
        entry = {"kind": "file", "time_ms": 1, "file": "authorized_keys"}
        with (self.folder / "outbox.jsonl").open("a") as file:
            file.write(json.dumps(entry) + "\n")

    def begin(self) -> None:
        """Have the stranger's own root say that it began the run."""
        (self.root / "begun").mkdir(exist_ok=True)
        record = json.loads((self.folder / "tracking.json").read_text())
        config = json.loads((self.folder / "config.json").read_text())["config"]
        keys = ("tracking.storage", "data.path", "data.root", "eval.extractor_weights")
        settings = {k: config[k.split(".")[0]][k.split(".")[1]] for k in keys}
        told = {"uri": record["uri"], "artifacts": [], "settings": settings}
        (self.root / "begun" / f"{self.run_id}.json").write_text(json.dumps(told))

    def use(self, how: str, *words: str) -> Ended:
        """Do what a user does who has got the copy."""
        if how == "URI":
            return spire("resume", f"file://{self.folder}", "--quiet", *words)
        if how == "path":
            self.begin()
            return spire("resume", str(self.folder), "--quiet", *words)
        shutil.copytree(self.folder, Path("runs", self.run_id), symlinks=True)
        if how == "id":
            return spire("resume", self.run_id, "--quiet", *words)
        return spire("sync", *words)


@pytest.fixture
def copy(tmp_path: Path, interrupted: Path) -> Copy:
    return Copy(tmp_path / "sent", interrupted)


def a_run_in(database: Path, artifacts: Path) -> str:
    """Begin a run in a database whose artifacts go to a folder; return its id."""
    client = MlflowClient(f"sqlite:///{database}")
    experiment = client.create_experiment("e", artifact_location=artifacts.as_uri())
    run_id = client.create_run(experiment).info.run_id
    with contextlib.closing(sqlite3.connect(database)) as connection:
        connection.execute("UPDATE runs SET artifact_uri = ?", (artifacts.as_uri(),))
        connection.commit()
    return run_id


# --- stores -------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", VERBS)
def test_a_database_inside_the_copy_writes_no_file(
    how: str, interrupted: Path, victim: Path, tmp_path: Path, new_database: Path
) -> None:
    shutil.copy(new_database, tmp_path / "evil.db")
    copy = Copy(tmp_path / "sent", interrupted, a_run_in(tmp_path / "evil.db", victim))
    where = f"runs/{copy.run_id}/artifacts/x/evil.db"
    copy.tracked_at(f"sqlite:///{tmp_path / 'sent' / where if how == 'path' else where}")
    (copy.folder / "artifacts" / "x").mkdir()
    shutil.copy(tmp_path / "evil.db", copy.folder / "artifacts" / "x")
    before = contents(victim)
    assert copy.use(how).code in (1, 2)
    assert contents(victim) == before
    typed = copy.use(how, f"tracking.uri=sqlite:///{where}") if how == "URI" else None
    assert typed is None or "expected a store outside of" in typed.err
    assert contents(victim) == before


class Server(http.server.ThreadingHTTPServer):
    """A store that knows any run, whose artifacts are to be written to `place`."""

    def __init__(self, place: str) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.place, self.credentials, self.paths = place, list[str | None](), list[str]()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.answer()

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.answer()

    def answer(self) -> None:
        server: Any = self.server
        server.credentials.append(self.headers.get("Authorization"))
        server.paths.append(self.path)
        info = {"run_id": "x", "experiment_id": "0", "artifact_uri": server.place}
        info |= {"lifecycle_stage": "active", "status": "RUNNING", "start_time": 1}
        experiment = {"experiment_id": "0", "name": "e", "artifact_location": server.place}
        told = {"run": {"info": info, "data": {}, "inputs": {}}, "experiment": experiment}
        body = json.dumps(told).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def server(victim: Path) -> Iterator[Server]:
    server = Server(victim.as_uri())
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("how", VERBS)
@pytest.mark.parametrize("has_own", [True, False])
def test_a_server_of_the_record_gets_neither_credentials_nor_anything_else(
    how: str,
    has_own: bool,
    copy: Copy,
    server: Server,
    victim: Path,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "topsecret")
    if has_own:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{home}/mlflow.db")
    copy.tracked_at(server.address)
    before = contents(victim)
    ended = copy.use(how)
    assert (server.paths, server.credentials) == ([], [])
    assert contents(victim) == before
    assert ended.code == (1 if how == "sync" else 2)
    said = ended.out if how == "sync" else ended.err
    assert "tracking.uri=URI" in said
    assert how != "sync" or has_own or f"spire sync {copy.run_id} --mine" in said


@pytest.mark.parametrize("how", VERBS)
def test_a_store_writes_no_file_of_the_users_even_if_it_was_typed(
    how: str, copy: Copy, server: Server, victim: Path, caplog: pytest.LogCaptureFixture
) -> None:
    copy.tracked_at("")
    before = contents(victim)
    with caplog.at_level(logging.WARNING):
        ended = copy.use(how, f"tracking.uri={server.address}")
    assert contents(victim) == before
    said = ended.out + ended.err
    assert "expected the run's artifacts below " in said
    assert str(victim) in said
    assert caplog.text.index(f"its store is '{server.address}'") < caplog.text.index("artifacts go")


@pytest.mark.parametrize("address", ["runs:/x", "models:/x", "/tmp/x", "file://host/x", "x", ""])
def test_addresses_that_may_mean_a_file_are_refused(
    address: str, copy: Copy, server: Server
) -> None:
    copy.tracked_at("")
    server.place = address
    ended = copy.use("sync", f"tracking.uri={server.address}")
    assert "expected the run's artifacts below" in ended.out
    assert not any("log" in path for path in server.paths)


# --- a run's own files that name places ---------------------------------------------------------


@pytest.mark.parametrize("how", RESUMES)
def test_checkpoints_do_not_go_where_the_copy_says(how: str, copy: Copy, tmp_path: Path) -> None:
    (tmp_path / "evil").mkdir()
    copy.set("tracking", storage=f"file://{tmp_path}/evil")
    assert copy.use(how).code == 0
    assert contents(tmp_path / "evil") == {}


def save_pictures(folder: Path) -> None:
    for name in "ab":
        (folder / name).mkdir(parents=True)
        for i in range(80):
            pixels = np.random.default_rng(i).integers(0, 256, (16, 16), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i}.png")


@pytest.mark.parametrize("how", RESUMES)
def test_pictures_are_read_where_the_user_says_alone(how: str, copy: Copy, tmp_path: Path) -> None:
    pictures = tmp_path / "Pictures"
    save_pictures(pictures)
    copy.set("data", name="folder", path=str(pictures), image_size=16)
    copy.set("eval", extractor="cifar10-cnn")
    for name in ("checkpoints", "clients", "evaluations"):
        shutil.rmtree(copy.folder / name, ignore_errors=True)
    path = copy.folder / "config.json"
    stored = json.loads(path.read_text())
    began_with = prepare(config_from_dict(stored["config"])).hashes  # of the same pictures
    path.write_text(json.dumps(stored | began_with))
    ended = copy.use(how)
    assert ended.code == 2
    assert f"expected data.path={pictures} on the command line" in ended.err
    again = str(copy.folder) if how == "path" else copy.run_id
    assert spire("resume", again, f"data.path={pictures}", "--quiet").code == 0


@pytest.mark.parametrize("how", RESUMES)
def test_an_extractor_is_read_where_the_user_says_alone(how: str, copy: Copy, victim: Path) -> None:
    copy.set("eval", extractor_weights=str(victim / "notes.txt"))
    copy.set("data", root="/strangers")  # left out: the user's own data sets are meant
    ended = copy.use(how)
    assert ended.code == 2
    assert f"expected eval.extractor_weights={victim}/notes.txt on the command line" in ended.err


# --- links --------------------------------------------------------------------------------------

LINKS = {"checkpoints": "", "clients": "", "evaluations": "", "samples": "", "model": ""}
LINKS |= {"run.lock": "notes.txt", "outbox.lock": "notes.txt", "outbox.jsonl": "notes.txt"}
LINKS |= {"outbox.done.part": "notes.txt", "artifacts/figures/grid.png": "notes.txt"}
LINKS |= {"clients/0000000/0000002.safetensors": "notes.txt"}


@pytest.mark.parametrize("how", ["id", "path", "sync"])
@pytest.mark.parametrize("link", LINKS)
def test_no_link_in_a_runs_folder_is_followed(
    how: str, link: str, interrupted: Path, victim: Path, home: Path, tmp_path: Path
) -> None:
    run_id = a_run_in(home / "mlflow.db", home / "artifacts")  # a store that takes what it is sent
    copy = Copy(tmp_path / "sent", interrupted, run_id)
    if how == "sync":
        copy.tracked_at(f"sqlite:///{home}/mlflow.db")
    path = copy.folder / link
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(victim / LINKS[link])
    before = contents(victim)
    ended = copy.use(how)
    assert contents(victim) == before
    assert f"{link}: delete it" in ended.out + ended.err
    assert ended.code == (1 if how == "sync" else 2)
    if how == "sync":
        assert spire("sync", copy.run_id).code == 2


def test_no_link_of_a_finished_run_is_followed(copy: Copy, victim: Path) -> None:
    assert copy.use("id").code == 0
    Path("runs", copy.run_id, "samples").symlink_to(victim)
    for argv in (["sample", copy.run_id, "--num", "1"], ["adapt", copy.run_id, "--data", "mnist"]):
        ended = spire(*argv)
        assert (ended.code, "samples: delete it" in ended.err) == (2, True)


def test_locks_are_opened_without_following(
    tmp_path: Path, victim: Path, new_database: Path, home: Path
) -> None:
    from pipeline.runs.folder import run_lock
    from pipeline.tracking.mlflow_session import first_contact
    from pipeline.tracking.relay import sole_relay
    from spire_core.errors import RunError

    before = contents(victim)
    for name in ("run.lock", "outbox.lock"):
        Path(name).symlink_to(victim / "notes.txt")
    Path("mlflow.db.lock").unlink(missing_ok=True)
    Path("mlflow.db.lock").symlink_to(victim / "notes.txt")
    uri = f"sqlite:///{home}/mlflow.db"
    for opened in (run_lock(home), sole_relay(home), first_contact(uri)):
        with pytest.raises(RunError, match="got a link: delete it"), opened:
            pass
    assert contents(victim) == before


def test_checkpoints_of_a_storage_follow_no_link(copy: Copy, victim: Path) -> None:
    shutil.rmtree(copy.folder / "clients")
    (copy.folder / "clients").symlink_to(victim / "20240101")
    before = contents(victim)
    words = f"tracking.storage=file://{copy.folder.parent}"
    ended = copy.use("URI", words)
    assert (ended.code, "clients: delete it" in ended.err) == (2, True)
    assert contents(victim) == before


def test_a_run_at_the_address_of_its_own_folder_is_not_copied_onto_itself(
    copy: Copy, home: Path
) -> None:
    run_dir = home / "runs" / copy.run_id
    shutil.copytree(copy.folder, run_dir)
    ended = spire("resume", f"file://{run_dir}", "--quiet", "tracking.enabled=false")
    assert (ended.code, "it goes on from there" in ended.err) == (0, True)
    assert "storage/failed_uploads" not in (run_dir / "outbox.jsonl").read_text()


# --- a run of one's own -------------------------------------------------------------------------


@pytest.fixture
def own(home: Path) -> Path:
    """The folder of a tracked run of this root that has all but its end."""
    assert spire("run", "smoke", "--quiet", *TINY).code == 0
    run_dir = next(home.glob("runs/*/tracking.json")).parent
    (run_dir / "result.json").unlink()
    shutil.rmtree(run_dir / "model")
    return run_dir


def add_number(run_dir: Path) -> None:
    entry = {"kind": "metrics", "time_ms": 1, "step": 77, "metrics": {"late": 1.0}}
    with (run_dir / "outbox.jsonl").open("a") as file:
        file.write(json.dumps(entry) + "\n")


def test_another_record_in_the_folder_of_an_own_run_has_no_say(
    own: Path, server: Server, tmp_path: Path, home: Path
) -> None:
    (tmp_path / "evil").mkdir()
    record = json.loads((own / "tracking.json").read_text())
    (own / "tracking.json").write_text(json.dumps(record | {"uri": server.address}))
    stored = json.loads((own / "config.json").read_text())
    stored["config"]["tracking"]["storage"] = f"file://{tmp_path}/evil"
    stored["config"]["eval"]["extractor_weights"] = str(tmp_path / "gone")
    (own / "config.json").write_text(json.dumps(stored))
    add_number(own)
    assert spire("sync").code == 0
    assert spire("resume", own.name, "--quiet").code == 0
    assert server.paths == []
    assert contents(tmp_path / "evil") == {}
    client = MlflowClient(f"sqlite:///{home}/mlflow.db")
    assert [m.value for m in client.get_metric_history(own.name, "late")] == [1.0]


def test_an_own_run_is_gone_on_with_and_delivered_without_a_question(
    own: Path, caplog: pytest.LogCaptureFixture
) -> None:
    add_number(own)
    with caplog.at_level(logging.WARNING):
        assert spire("sync").code == 0
        assert spire("resume", "last", "--quiet").code == 0
    assert "begun here" not in caplog.text


def test_a_copy_of_an_own_run_elsewhere_does_not_tell_its_store(own: Path, tmp_path: Path) -> None:
    add_number(own)
    shutil.copytree(own, tmp_path / "copy")
    for verb in ("resume", "sync"):
        ended = spire(verb, str(tmp_path / "copy"), "tracking.uri=sqlite:///mlflow.db")
        assert "got a copy in" in ended.out + ended.err


# --- until its owner says otherwise -------------------------------------------------------------


def test_a_run_from_before_is_its_owners_again(
    own: Path, home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.rmtree(home / "begun")  # as it was when roots did not note their runs
    add_number(own)
    assert spire("sync", "--mine").code == 2
    ended = spire("sync")
    assert (ended.code, f"spire sync {own.name} --mine" in ended.out) == (1, True)
    with caplog.at_level(logging.WARNING):
        assert spire("sync", own.name, "--mine").code == 0
    assert f"its store is 'sqlite:///{home}/mlflow.db'" in caplog.text
    assert f"its artifacts go to 'file://{home}/artifacts/{own.name}/artifacts'" in caplog.text
    add_number(own)
    assert spire("sync").code == 0
    assert spire("resume", own.name, "--quiet").code == 0


def test_a_foreign_run_that_is_claimed_keeps_the_places_of_its_record(
    copy: Copy, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "shared").mkdir()
    copy.set("tracking", storage=f"file://{tmp_path}/shared")
    with caplog.at_level(logging.WARNING):
        assert copy.use("id", "--mine").code == 0
    assert f"tracking.storage is 'file://{tmp_path}/shared'" in caplog.text
    assert (tmp_path / "shared" / copy.run_id / "config.json").is_file()
    assert spire("resume", str(copy.folder), "--mine").code == 2  # it is in no root of the user's


def test_artifacts_of_another_root_are_the_owners_if_both_are_said(
    interrupted: Path, victim: Path, tmp_path: Path, new_database: Path
) -> None:
    shutil.copy(new_database, tmp_path / "old.db")
    copy = Copy(tmp_path / "sent", interrupted, a_run_in(tmp_path / "old.db", victim))
    copy.tracked_at(f"sqlite:///{tmp_path}/old.db")
    ended = copy.use("sync")
    assert ended.code == 1
    assert spire("sync", copy.run_id, "--mine").code == 2
    assert not (victim / "authorized_keys").exists()
    typed = f"tracking.uri=sqlite:///{tmp_path}/old.db"
    assert spire("sync", copy.run_id, typed).code == 1
    assert not (victim / "authorized_keys").exists()
    assert spire("sync", copy.run_id, "--mine", typed).code == 0
    assert (victim / "authorized_keys").is_file()


def test_a_copy_that_the_user_names_gets_its_checkpoints(
    copy: Copy, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert copy.use("URI").code == 0
    assert f"its checkpoints go to 'file://{copy.folder.parent}'" in caplog.text
