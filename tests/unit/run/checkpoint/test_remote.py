"""Copies of runs at another storage: what is sent, dropped, refused, and comes back."""

import logging
import threading
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pyarrow.fs import LocalFileSystem, SubTreeFileSystem

from pipeline.checkpoint.remote import (
    Mirror,
    check_storage,
    mirror_of,
    open_storage,
    restore,
    storage_of,
)
from pipeline.checkpoint.snapshots import (
    kept_rounds,
    new_state_file,
    newest_checkpoint,
    save_checkpoint,
)
from pipeline.clients.store import ClientStore
from pipeline.config.schema import Config
from pipeline.config.tracking import TrackingConfig
from pipeline.runs.record import find_run, make_run_dir, run_lock
from pipeline.runs.server_state import write_state
from pipeline.tracking.outbox import Outbox, entries, read_cursor, write_cursor
from spire_core.errors import BusyError, ConfigError, RunError
from spire_core.federated.private_state import PrivateState
from spire_core.federated.server import ServerState

RUN_ID = "0123456789abcdef" * 2
PRIVATE = ("noise.key", "noise.device", "scored.json", "run.lock", "outbox.lock")


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    config = TrackingConfig(root=str(tmp_path / "here"))
    (tmp_path / "here" / "runs").mkdir(parents=True)
    return make_run_dir(config, RUN_ID, "name", None)


@pytest.fixture
def mirror(run_dir: Path, tmp_path: Path) -> Mirror:
    (tmp_path / "there").mkdir()
    return Mirror(run_dir, SubTreeFileSystem(str(tmp_path / "there"), LocalFileSystem()), RUN_ID)


def state_after(done: int) -> ServerState:
    weights = np.full(50, done, dtype=np.float32)
    return ServerState(done, weights, weights)


def checkpoint(run_dir: Path, done: int) -> None:
    """Clients 0 and 1 take turns; whoever has trained keeps what the checkpoints need."""
    state = PrivateState({"client_emb": torch.full((8,), float(done))})
    ClientStore(run_dir / "clients").save(done % 2, done, state, kept_rounds(run_dir))
    Outbox(run_dir).append_points([(done, {"pretrain/loss": 1.0})])
    written = partial(write_state, new_state_file(run_dir, done), state_after(done))
    save_checkpoint(run_dir, done, written, "f", keep=2)


def files_of(folder: Path) -> dict[str, Path]:
    found = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path for path in found}


# --- there ---


def test_the_files_that_a_resume_needs_are_there_and_no_others_and_a_manifest_is_last(
    run_dir: Path, tmp_path: Path, mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    send, sent = Mirror._send, list[str]()
    monkeypatch.setattr(Mirror, "_send", lambda *args: (sent.append(args[1]), send(*args)))
    (run_dir / "artifacts" / "images").mkdir(parents=True)
    (run_dir / "artifacts" / "images" / "one.png").write_bytes(b"png")
    (run_dir / "profile").mkdir()
    for name in (*PRIVATE, "profile/trace.json.gz", "result.json", "clients/a1.part"):
        (run_dir / name).parent.mkdir(exist_ok=True)
        (run_dir / name).write_bytes(b"stays here")
    for done in (1, 2, 3, 4, 5):
        checkpoint(run_dir, done)
        sent.clear()
        mirror.upload(done)
        assert sent[-1] == f"checkpoints/{done:07d}/manifest.json"
    changed = {name for name in sent if "0000005" not in name}
    assert changed == {"run.json", "outbox.jsonl"}  # the others are there
    there = files_of(tmp_path / "there" / RUN_ID)
    assert sorted(there) == [
        "artifacts/images/one.png",
        "checkpoints/0000004/manifest.json",
        "checkpoints/0000004/server.safetensors",
        "checkpoints/0000005/manifest.json",
        "checkpoints/0000005/server.safetensors",
        "clients/0000000/0000004.safetensors",
        "clients/0000001/0000003.safetensors",
        "clients/0000001/0000005.safetensors",
        "outbox.jsonl",
        "run.json",
    ]
    for name, path in there.items():
        assert path.read_bytes() == (run_dir / name).read_bytes()


def test_each_file_that_a_copied_entry_names_is_in_the_copy(
    run_dir: Path, tmp_path: Path, mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rounds go on meanwhile: here the run records a file whenever one has been sent."""
    send, num = Mirror._send, 0
    (run_dir / "artifacts").mkdir()

    def record() -> None:
        nonlocal num
        num += 1
        (run_dir / "artifacts" / f"{num}.png").write_bytes(b"png")
        Outbox(run_dir).append("file", file=f"{num}.png")
        write_cursor(run_dir, (run_dir / "outbox.jsonl").stat().st_size, "")

    def send_beside_rounds(mirror: Mirror, *args: Any) -> None:
        send(mirror, *args)
        record()

    record()
    checkpoint(run_dir, 1)
    monkeypatch.setattr(Mirror, "_send", send_beside_rounds)
    mirror.upload(1)
    there = tmp_path / "there" / RUN_ID
    named = [entry["file"] for entry, _ in entries(there) if entry["kind"] == "file"]
    assert named
    assert [name for name in named if not (there / "artifacts" / name).is_file()] == []
    assert read_cursor(there)[0] <= (there / "outbox.jsonl").stat().st_size


def test_an_upload_that_fails_is_counted_and_made_up_for(
    run_dir: Path, tmp_path: Path, mirror: Mirror, caplog: pytest.LogCaptureFixture
) -> None:
    obstacle = tmp_path / "there" / RUN_ID
    obstacle.write_text("a file where a folder is to be")
    checkpoint(run_dir, 1)
    with caplog.at_level(logging.WARNING):
        mirror.begin(1)
        while mirror.pinned_rounds:
            pass
    assert (mirror.num_failed, mirror.last_done) == (1, None)
    [text] = caplog.messages
    assert text.startswith(f"checkpoint 1 is not at {RUN_ID} (")
    obstacle.unlink()
    checkpoint(run_dir, 2)
    mirror.close(60)
    assert (mirror.num_failed, mirror.last_done) == (1, 2)


def test_a_storage_that_does_not_answer_is_not_waited_for_long(
    run_dir: Path,
    mirror: Mirror,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    send, answers = Mirror._send, threading.Event()

    def send_late(mirror: Mirror, *args: Any) -> None:
        assert answers.wait(60)
        send(mirror, *args)

    monkeypatch.setattr(Mirror, "_send", send_late)
    checkpoint(run_dir, 1)
    mirror.begin(1)
    checkpoint(run_dir, 2)
    mirror.begin(2)  # it is skipped
    assert mirror.pinned_rounds == (1,)
    mirror.close(0.1)
    assert (mirror.num_failed, mirror.last_done) == (1, None)
    [text] = caplog.messages
    assert text == f"checkpoint 2 is not at {RUN_ID} (nothing after 0.1 s)"
    answers.set()
    mirror.close(60)
    assert (mirror.num_failed, mirror.last_done) == (1, 2)


# --- and back ---


def test_a_run_comes_back_from_its_copy(run_dir: Path, tmp_path: Path) -> None:
    config = TrackingConfig(root=str(tmp_path / "here"), storage=f"file://{tmp_path}/there")
    mirror = mirror_of(run_dir, Config(tracking=config))
    assert mirror is not None
    checkpoint(run_dir, 1)
    mirror.begin(1)
    mirror.close(60)
    assert (mirror.num_failed, mirror.last_done) == (0, 1)
    (tmp_path / "there" / RUN_ID / "evil.pkl").write_bytes(b"code")
    uri, said = f"{config.storage}/{RUN_ID}", list[str]()
    elsewhere = TrackingConfig(root=str(tmp_path / "elsewhere"))
    found = tmp_path / "elsewhere" / "runs" / RUN_ID
    assert restore(uri, elsewhere, said.append) == found
    assert {*files_of(found)} - {"run.lock"} == {*files_of(run_dir)}
    state = newest_checkpoint(found, "f")
    assert state is not None
    assert np.array_equal(state.weights, state_after(1).weights)
    assert restore(uri, elsewhere, said.append) == found
    assert ["brought" in said[0], "here already" in said[1]] == [True, True]
    with run_lock(found), pytest.raises(BusyError):
        restore(uri, elsewhere, said.append)


def test_a_run_that_has_come_in_part_is_none_and_the_next_restore_brings_the_rest(
    run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint(run_dir, 1)
    Mirror(run_dir, LocalFileSystem(), str(tmp_path / "there" / RUN_ID)).upload(1)
    elsewhere, uri = TrackingConfig(root=str(tmp_path / "new")), f"file://{tmp_path}/there/{RUN_ID}"

    def full(folder: Path) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("pipeline.checkpoint.remote.sync_tree", full)
        with pytest.raises(RunError, match=r"No space left on device"):
            restore(uri, elsewhere, print)
    with pytest.raises(RunError, match="which is none of those in"):
        find_run("name", elsewhere)
    found = restore(uri, elsewhere, print)
    assert find_run("name", elsewhere) == found


def test_where_there_is_no_run_it_is_said(tmp_path: Path) -> None:
    (tmp_path / RUN_ID).mkdir()
    for uri in (f"file://{tmp_path}", f"file://{tmp_path}/{RUN_ID}", f"file://{tmp_path}/gone"):
        with pytest.raises(RunError, match="expected a run at file://"):
            restore(uri, TrackingConfig(root=str(tmp_path)), print)


# --- where copies may lie: nowhere among the runs themselves, of which they drop files ---


@pytest.mark.parametrize("uri", ["nowhere://a/b", "s3:/"])
def test_an_address_of_no_storage_is_refused(uri: str) -> None:
    with pytest.raises(ConfigError, match="such as s3://BUCKET"):
        open_storage(uri)


def test_a_storage_among_the_runs_is_refused(run_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "way").symlink_to(run_dir.parent)
    config = TrackingConfig(root=str(tmp_path / "here"), storage=f"file://{tmp_path}/way/x")
    with pytest.raises(ConfigError, match=r"expected tracking\.storage outside of .*/runs, wh"):
        check_storage(config)


def test_the_storage_of_a_copy_follows_from_its_address() -> None:
    assert storage_of(f"file:///there/{RUN_ID}/") == "file:///there"
    assert storage_of(f"s3://bucket/runs/{RUN_ID}?region=x") == "s3://bucket/runs?region=x"
