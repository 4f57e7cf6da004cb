"""Checkpoints at another storage: what is sent, what is dropped, what fails, what is refused."""

import errno
import logging
import os
import shutil
import threading
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pyarrow.fs import LocalFileSystem, SubTreeFileSystem

from pipeline.checkpoint.remote import Mirror, mirror_of
from pipeline.checkpoint.restore import restore
from pipeline.checkpoint.snapshots import (
    kept_rounds,
    new_state_file,
    newest_checkpoint,
    save_checkpoint,
)
from pipeline.checkpoint.storage import names_at, open_storage
from pipeline.clients.store import ClientStore
from pipeline.config.tracking import TrackingConfig
from pipeline.runs.folder import run_lock
from pipeline.runs.record import find_run, make_run_dir
from pipeline.runs.server_state import write_state
from pipeline.tracking.outbox import Outbox, read_cursor, read_entries, write_cursor
from spire_core.errors import BusyError, ConfigError, RunError
from spire_core.federated.private_state import PrivateState
from spire_core.federated.server import ServerState

RUN_ID = "0123456789abcdef" * 2


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    config = TrackingConfig(root=str(tmp_path / "here"))
    (tmp_path / "here" / "runs").mkdir(parents=True)
    return make_run_dir(config, RUN_ID, "name", None)


def storage_in(folder: Path) -> SubTreeFileSystem:
    folder.mkdir(exist_ok=True)
    return SubTreeFileSystem(str(folder), LocalFileSystem())


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


def test_what_a_resume_needs_is_there_and_nothing_more(run_dir: Path, tmp_path: Path) -> None:
    mirror = Mirror(run_dir, storage_in(tmp_path / "there"), RUN_ID)
    (run_dir / "artifacts" / "images").mkdir(parents=True)
    (run_dir / "artifacts" / "images" / "one.png").write_bytes(b"png")
    for done in (1, 2, 3, 4, 5):
        checkpoint(run_dir, done)
        mirror.upload(done)
    there = names_at(mirror.storage, RUN_ID)
    assert there == [
        "artifacts/images/one.png",
        "checkpoints/0000004/manifest.json",
        "checkpoints/0000004/server.safetensors",
        "checkpoints/0000005/manifest.json",
        "checkpoints/0000005/server.safetensors",
        "clients/0000000/0000004.safetensors",
        "clients/0000001/0000003.safetensors",
        "clients/0000001/0000005.safetensors",
        "outbox.jsonl",
        "tracking.json",
    ]
    for name in there:
        assert (tmp_path / "there" / RUN_ID / name).read_bytes() == (run_dir / name).read_bytes()


def test_what_has_not_changed_is_not_sent_again(run_dir: Path, tmp_path: Path) -> None:
    mirror = Mirror(run_dir, storage_in(tmp_path / "there"), RUN_ID)

    def times() -> dict[str, int]:
        files = (p for p in (tmp_path / "there").glob("**/*") if p.is_file())
        return {p.relative_to(tmp_path / "there").as_posix(): p.stat().st_mtime_ns for p in files}

    checkpoint(run_dir, 1)
    mirror.upload(1)
    before = times()
    checkpoint(run_dir, 2)
    mirror.upload(2)
    after = times()
    assert {name for name in before if before[name] != after[name]} == {f"{RUN_ID}/outbox.jsonl"}


def test_each_file_that_a_copied_entry_names_is_in_the_copy(
    run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rounds go on meanwhile: here the run records a file whenever one has been sent."""
    mirror, send, num = Mirror(run_dir, storage_in(tmp_path / "there"), RUN_ID), Mirror._send, 0
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
    named = [entry["file"] for entry in read_entries(there) if entry["kind"] == "file"]
    assert named
    assert [name for name in named if not (there / "artifacts" / name).is_file()] == []
    assert read_cursor(there)[0] <= (there / "outbox.jsonl").stat().st_size


def test_a_run_comes_back_from_its_copy(
    run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = TrackingConfig(root=str(tmp_path / "here"), storage=f"file://{tmp_path}/there")
    mirror = mirror_of(run_dir, config)
    assert mirror is not None
    checkpoint(run_dir, 1)
    mirror.begin(1)
    mirror.close(60)
    assert (mirror.num_failed, mirror.last_done) == (0, 1)
    said: list[str] = []
    uri, elsewhere = f"{config.storage}/{RUN_ID}", TrackingConfig(root=str(tmp_path / "elsewhere"))
    synced: list[Path] = []

    def fsync(descriptor: int) -> None:
        synced.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")))

    monkeypatch.setattr(os, "fsync", fsync)
    found = restore(uri, elsewhere, said.append)
    names = {path.relative_to(found).as_posix() for path in found.rglob("*") if path.is_file()}
    (part,) = {path for path in synced if path.suffix == ".part"}
    assert {part / name for name in names} <= {*synced}  # a power cut takes nothing of it
    assert found == tmp_path / "elsewhere" / "runs" / RUN_ID
    state = newest_checkpoint(found, "f")
    assert state is not None
    assert np.array_equal(state.weights, state_after(1).weights)
    assert restore(uri, elsewhere, said.append) == found
    assert ["brought" in said[0], "here already" in said[1]] == [True, True]
    assert not list(found.parent.glob("*.part"))


def test_an_upload_that_fails_is_counted_and_tried_again(
    run_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    mirror = Mirror(run_dir, storage_in(tmp_path / "there"), RUN_ID)
    obstacle = tmp_path / "there" / RUN_ID
    obstacle.write_text("a file where a folder is to be")
    checkpoint(run_dir, 1)
    with caplog.at_level(logging.WARNING):
        mirror.begin(1)
        while mirror.pinned_rounds:
            pass
    assert (mirror.num_failed, mirror.last_done) == (1, None)
    assert f"the checkpoint after round 1 is not at {RUN_ID}" in caplog.text
    obstacle.unlink()
    checkpoint(run_dir, 2)
    mirror.close(60)
    assert (mirror.num_failed, mirror.last_done) == (1, 2)


def test_the_last_upload_that_fails_is_not_tried_again(
    run_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    mirror = Mirror(run_dir, storage_in(tmp_path / "there"), RUN_ID)
    checkpoint(run_dir, 1)
    mirror.upload(1)
    there = tmp_path / "there" / RUN_ID
    there.rename(tmp_path / "away")
    there.write_text("a file where a folder is to be")
    checkpoint(run_dir, 2)
    mirror.close(60)
    assert mirror.num_failed == 1
    [text] = caplog.messages
    assert text.startswith(f"the checkpoint after round 2 is not at {RUN_ID} (")
    assert text.endswith("folder alone, and the newest that was sent is that after round 1")


def test_a_storage_that_does_not_answer_is_not_waited_for_long(
    run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    send, answers = Mirror._send, threading.Event()

    def send_late(mirror: Mirror, *args: Any) -> None:
        assert answers.wait(60)
        send(mirror, *args)

    monkeypatch.setattr(Mirror, "_send", send_late)
    mirror = Mirror(run_dir, storage_in(tmp_path / "there"), RUN_ID)
    checkpoint(run_dir, 1)
    mirror.begin(1)
    checkpoint(run_dir, 2)
    mirror.close(0.1)
    assert (mirror.num_failed, mirror.last_done) == (1, None)
    [text] = caplog.messages
    assert text.startswith(f"the checkpoint after round 2 is not at {RUN_ID} (nothing after 0.1 s)")
    assert text.endswith("the newest that was sent is none")
    answers.set()
    mirror.close(60)
    assert (mirror.num_failed, mirror.last_done) == (1, 2)


def test_only_a_runs_files_are_brought(run_dir: Path, tmp_path: Path) -> None:
    checkpoint(run_dir, 1)
    Mirror(run_dir, LocalFileSystem(), str(tmp_path / "there" / RUN_ID)).upload(1)
    (tmp_path / "there" / RUN_ID / "evil.pkl").write_bytes(b"code")
    (tmp_path / "there" / RUN_ID / "result.json").write_text("{}")
    elsewhere = TrackingConfig(root=str(tmp_path / "elsewhere"))
    found = restore(f"file://{tmp_path}/there/{RUN_ID}", elsewhere, print)
    names = {p.name for p in found.glob("*")}
    assert names == {"tracking.json", "outbox.jsonl", "clients", "checkpoints", "run.lock"}


def test_a_restore_that_was_killed_is_no_run_and_the_next_one_brings_all(
    run_dir: Path, tmp_path: Path
) -> None:
    checkpoint(run_dir, 1)
    Mirror(run_dir, LocalFileSystem(), str(tmp_path / "there" / RUN_ID)).upload(1)
    elsewhere = TrackingConfig(root=str(tmp_path / "elsewhere"))
    part = tmp_path / "elsewhere" / "runs" / f".{RUN_ID}.part"
    shutil.copytree(run_dir, part)  # killed when all was there, but for its name
    (part / "clients" / "0000009").mkdir()
    with pytest.raises(RunError, match="which is none of those in"):
        find_run("name", elsewhere)
    uri, said = f"file://{tmp_path}/there/{RUN_ID}", list[str]()
    with run_lock(part), pytest.raises(BusyError, match=r"got process \d+ on .*: wait until it"):
        restore(uri, elsewhere, said.append)
    found = restore(uri, elsewhere, said.append)
    assert not (found / "clients" / "0000009").exists()
    assert not part.exists()
    assert find_run("name", elsewhere) == found
    assert "brought" in said[0]


def test_a_restore_that_fails_leaves_nothing_but_its_lock(
    run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint(run_dir, 1)
    Mirror(run_dir, LocalFileSystem(), str(tmp_path / "there" / RUN_ID)).upload(1)
    elsewhere = TrackingConfig(root=str(tmp_path / "elsewhere"))

    def full(folder: Path) -> None:
        assert (folder / "tracking.json").is_file()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("pipeline.checkpoint.restore.sync_tree", full)
    with pytest.raises(OSError, match="No space"):
        restore(f"file://{tmp_path}/there/{RUN_ID}", elsewhere, print)
    names = [path.name for path in (tmp_path / "elsewhere").rglob("*")]
    assert sorted(names) == [f".{RUN_ID}.part", "run.lock", "runs"]


@pytest.mark.parametrize("uri", ["nowhere://a/b", "file://host/a", "s3:/"])
def test_what_is_no_storage_is_refused(uri: str) -> None:
    with pytest.raises(ConfigError, match="such as s3://BUCKET"):
        open_storage(uri)


@pytest.mark.parametrize("uri", ["folder", "/folder", ""])
def test_what_is_no_uri_is_refused_at_once(uri: str) -> None:
    with pytest.raises(ConfigError, match=r"expected tracking\.storage as a URI"):
        TrackingConfig(storage=uri)


def test_where_there_is_no_run_it_is_said(tmp_path: Path) -> None:
    (tmp_path / RUN_ID).mkdir()
    for uri in (f"file://{tmp_path}", f"file://{tmp_path}/{RUN_ID}", f"file://{tmp_path}/gone"):
        with pytest.raises(RunError, match="expected a run at file://"):
            restore(uri, TrackingConfig(root=str(tmp_path)), print)
