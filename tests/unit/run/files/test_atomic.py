"""A disk without room, here a limit on the size of files: what is good stays, and it is said.

Also a lock that another has.
"""

import contextlib
import errno
import os
import platform
import resource
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.checkpoint.snapshots import (
    kept_rounds,
    new_state_file,
    newest_checkpoint,
    save_checkpoint,
)
from pipeline.clients.store import ClientStore
from pipeline.config.load import load_config
from pipeline.files import atomic
from pipeline.files.atomic import held_lock, write_whole
from pipeline.runs.model_files import save_client, save_run
from pipeline.runs.server_state import write_state
from pipeline.tracking.outbox import Outbox, read_entries
from spire_core.errors import RunError
from spire_core.federated.private_state import PrivateState
from spire_core.federated.server import ServerState
from spire_core.network.flat_model import FlatModel


@contextlib.contextmanager
def files_up_to(num_bytes: int) -> Iterator[None]:
    """The system lets no file of this process grow further meanwhile."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def everything(folder: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in folder.glob("**/*") if p.is_file()}


def checkpoint(run_dir: Path, state: ServerState) -> None:
    written = partial(write_state, new_state_file(run_dir, state.round_idx), state)
    save_checkpoint(run_dir, state.round_idx, written, "f", keep=1)


def test_a_file_that_does_not_fit_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "a file"
    write_whole(path, b"old")
    with files_up_to(1000), pytest.raises(RunError, match=rf"expected room for {path}, got .*free"):
        write_whole(path, b"new" * 1000, is_lasting=True)
    assert everything(tmp_path) == {str(path): b"old"}


def test_a_checkpoint_that_does_not_fit_leaves_those_before(tmp_path: Path) -> None:
    weights = np.ones(1000, dtype=np.float32)
    checkpoint(tmp_path, ServerState(1, weights, weights))
    before = everything(tmp_path)
    with files_up_to(4000), pytest.raises(RunError, match=r"room for .*server.safetensors"):
        checkpoint(tmp_path, ServerState(2, weights, weights))
    assert everything(tmp_path) == before
    assert kept_rounds(tmp_path) == (1,)
    state = newest_checkpoint(tmp_path, "f")
    assert state is not None
    assert np.array_equal(state.ema, weights)


def test_a_clients_state_that_does_not_fit_leaves_those_before(tmp_path: Path) -> None:
    store = ClientStore(tmp_path)
    store.save(0, 1, PrivateState({"client_emb": torch.ones(8)}))
    before = everything(tmp_path)
    with files_up_to(4000), pytest.raises(RunError, match=r"room for .*0000002.safetensors"):
        store.save(0, 2, PrivateState({"client_emb": torch.ones(4000)}))
    assert everything(tmp_path) == before


@pytest.mark.parametrize("name", ["clients", "0000003"])
def test_a_full_disk_is_said_where_a_clients_folder_does_not_fit(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = Path.mkdir

    def full(path: Path, *args: Any, **kwargs: Any) -> None:
        if path.name == name:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        make(path, *args, **kwargs)

    monkeypatch.setattr(Path, "mkdir", full)
    with pytest.raises(RunError, match=rf"expected room for .*/{name}, got 'No space left.*free"):
        ClientStore(tmp_path / "clients").save(3, 1, PrivateState({"client_emb": torch.ones(8)}))


def test_a_clients_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "0000003").write_text("in its place")
    with pytest.raises(RunError, match=r"folder in which .*0000003 can be written, got 'File exis"):
        ClientStore(tmp_path).save(3, 1, PrivateState({"client_emb": torch.ones(8)}))


def test_a_finished_clients_file_that_does_not_fit_leaves_the_old_one(tmp_path: Path) -> None:
    save_client(tmp_path, 0, {"client_emb": torch.ones(8)})
    before = everything(tmp_path)
    with files_up_to(4000), pytest.raises(RunError, match=r"room for .*client_0.safetensors"):
        save_client(tmp_path, 0, {"client_emb": torch.ones(4000)})
    assert everything(tmp_path) == before


def test_a_backbone_that_does_not_fit_is_said(tmp_path: Path) -> None:
    config = load_config("smoke")
    model = FlatModel(config.model, config.method, 1)
    weights = np.zeros(model.layout.size, np.float32)
    with files_up_to(4000), pytest.raises(RunError, match=r"room for .*backbone.safetensors"):
        save_run(tmp_path, config, model, weights, {})
    assert everything(tmp_path) == {}


def test_an_entry_that_does_not_fit_takes_no_other_with_it(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path)
    with files_up_to(200), pytest.raises(RunError, match=r"room for .*outbox.jsonl"):
        outbox.append_points([(step, {"a": 1.0}) for step in range(10)])
    outbox.append_points([(10, {"a": 1.0})])
    assert [entry["step"] for entry in read_entries(tmp_path)] == [0, 1, 10]


def test_whoever_waits_for_a_lock_names_its_holder_and_then_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(atomic, "NOTICE_S", 0.0)
    monkeypatch.setattr(atomic, "POLL_S", 0.01)
    path, has_it = tmp_path / "trial.lock", threading.Event()

    def wait() -> None:
        with held_lock(path):
            has_it.set()

    waiter = threading.Thread(target=wait)
    with held_lock(path):
        waiter.start()
        assert not has_it.wait(0.2)
    waiter.join(10)
    assert has_it.is_set()
    holder = f"process {os.getpid()} on {platform.node()}"
    assert [r.getMessage() for r in caplog.records] == [f"waiting for {holder}, which holds {path}"]
