"""Files that are whole or not there: no room, a power cut, damage, and two processes at one run."""

import contextlib
import resource
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

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
from pipeline.files.atomic import DamagedError, write_whole
from pipeline.files.tensors import read_arrays, write_arrays
from pipeline.runs.record import run_lock
from pipeline.runs.server_state import write_state
from pipeline.tracking.outbox import Outbox, entries
from spire_core.errors import BusyError, RunError
from spire_core.federated.private_state import PrivateState
from spire_core.federated.server import ServerState


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


# --- a disk without room, here a limit on the size of files ---


def test_a_file_that_does_not_fit_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "a file"
    write_whole(path, b"old")
    with files_up_to(1000), pytest.raises(RunError, match=rf"expected room for {path} .*resume"):
        write_whole(path, b"new" * 1000, is_lasting=True)
    assert everything(tmp_path) == {str(path): b"old"}


def test_a_checkpoint_that_does_not_fit_leaves_those_before(tmp_path: Path) -> None:
    weights, store = np.ones(1000, dtype=np.float32), ClientStore(tmp_path / "clients")
    (tmp_path / "clients").mkdir()

    def checkpoint(done: int, size: int) -> None:
        store.save(0, done, PrivateState({"client_emb": torch.ones(size)}))
        state = ServerState(done, weights, weights)
        written = partial(write_state, new_state_file(tmp_path, done), state)
        save_checkpoint(tmp_path, done, written, "f", keep=1)

    checkpoint(1, 8)
    before = everything(tmp_path)
    with files_up_to(4000):
        with pytest.raises(RunError, match=r"room for .*clients/0000000"):
            checkpoint(2, 4000)
        assert everything(tmp_path) == before
        with pytest.raises(RunError, match=r"room for .*0000002"):
            checkpoint(2, 8)
    assert kept_rounds(tmp_path) == (1,)
    state = newest_checkpoint(tmp_path, "f")
    assert state is not None
    assert np.array_equal(state.ema, weights)


def test_an_entry_that_does_not_fit_takes_no_other_with_it(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path)
    with files_up_to(200), pytest.raises(RunError, match=r"room for .*outbox.jsonl"):
        outbox.append_points([(step, {"a": 1.0}) for step in range(10)])
    outbox.append_points([(10, {"a": 1.0})])
    assert [entry["step"] for entry, _ in entries(tmp_path)] == [0, 1, 10]


# --- content ---


ARRAYS = {
    "b": np.arange(6.0).reshape(2, 3)[:, ::2],  # no whole stretch of memory
    "a": np.array([1, 2]),
    "one": np.array(0.5),
    "none": np.zeros((0, 8), np.float32),
}


def test_arrays_and_texts_come_back_as_they_were_and_have_the_same_bytes(tmp_path: Path) -> None:
    texts = {"scores": "[0.5]", "x": "\u00e4"}
    for copy in range(8):
        write_arrays(tmp_path / f"t{copy}", ARRAYS, **texts)
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1
    arrays, read = read_arrays(tmp_path / "t0")
    assert read == texts
    assert arrays.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert (arrays[name].dtype, arrays[name].shape) == (array.dtype, array.shape)
        np.testing.assert_array_equal(arrays[name], array)


def test_a_flipped_bit_is_seen_in_any_byte_and_a_cut_anywhere(tmp_path: Path) -> None:
    path = tmp_path / "t"
    write_arrays(path, {"a": np.ones(4, np.float32)}, text="words")
    whole, num_harmless = path.read_bytes(), 0
    for byte in range(len(whole)):
        path.write_bytes(whole[:byte])
        with pytest.raises(DamagedError, match=str(path)):
            read_arrays(path)
        flipped = bytearray(whole)
        flipped[byte] ^= 1 << byte % 8
        path.write_bytes(flipped)
        try:
            arrays, texts = read_arrays(path)
        except DamagedError:
            continue
        num_harmless += 1  # white space in the header, which says nothing
        assert (arrays["a"].tolist(), texts) == ([1.0] * 4, {"text": "words"})
    assert num_harmless < 10


# --- a run's folder belongs to one process at a time, and to nobody once that has died ---

HOLDER = """
import sys, time
from pathlib import Path
from pipeline.runs.record import run_lock
with run_lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_second_process_is_refused_until_the_first_is_dead(tmp_path: Path) -> None:
    words = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None
        try:
            assert first.stdout.readline() == "held\n"
            told = f"nobody at work on the run in {tmp_path}, got another process: wait"
            with pytest.raises(BusyError, match=told), run_lock(tmp_path):
                pass
        finally:
            first.kill()
    with run_lock(tmp_path, wait_s=60), pytest.raises(BusyError), run_lock(tmp_path):
        pass
