"""Checkpoints on disk: whole or not there, damaged ones named, and clients' states beside them."""

import logging
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.checkpoint import checkpoints, kept_rounds, newest_checkpoint, save_checkpoint
from pipeline.client_store import ClientStore
from spire_core.errors import RunError
from spire_core.server import ServerState


def state_after(rounds: int) -> ServerState:
    rng = np.random.default_rng(rounds)
    weights = rng.normal(size=50).astype(np.float32)
    return ServerState(
        rounds, weights, weights + 1, steps=weights[:3], velocity=rng.normal(size=50)
    )


def same(one: ServerState | None, other: ServerState) -> bool:
    assert one is not None
    return all(
        np.array_equal(getattr(one, name), getattr(other, name))
        and getattr(getattr(one, name), "dtype", None) == getattr(value, "dtype", None)
        for name, value in vars(other).items()
    )


def test_what_was_saved_comes_back_bit_for_bit(tmp_path: Path) -> None:
    assert newest_checkpoint(tmp_path, "f") is None
    save_checkpoint(tmp_path, state_after(3), "f", keep=2)
    assert same(newest_checkpoint(tmp_path, "f"), state_after(3))


def test_the_newest_are_kept_and_nothing_half_written(tmp_path: Path) -> None:
    for rounds in (2, 4, 6, 8):
        save_checkpoint(tmp_path, state_after(rounds), "f", keep=3)
    assert kept_rounds(tmp_path) == (4, 6, 8)
    (tmp_path / "checkpoints" / ".abc.part").mkdir()  # a crash in the middle of writing
    assert kept_rounds(tmp_path) == (4, 6, 8)
    save_checkpoint(tmp_path, state_after(8), "f", keep=3)  # the same round again
    assert same(newest_checkpoint(tmp_path, "f"), state_after(8))


@pytest.mark.parametrize("file", ["server.safetensors", "manifest.json"])
@pytest.mark.parametrize("damage", ["flip", "cut", "gone"])
def test_a_damaged_one_is_named_and_the_one_before_used(
    file: str, damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for rounds in (2, 4):
        save_checkpoint(tmp_path, state_after(rounds), "f", keep=2)
    path = checkpoints(tmp_path)[-1] / file
    if damage == "gone":
        path.unlink()
    else:
        raw = bytearray(path.read_bytes())
        raw[len(raw) // 2] ^= 1
        path.write_bytes(raw if damage == "flip" else raw[: len(raw) // 2])
    with caplog.at_level(logging.WARNING):
        found = newest_checkpoint(tmp_path, "f")
    if (file, damage) == ("manifest.json", "flip"):
        assert found is not None  # a flipped bit of the hash is seen as well as one of the state
    assert same(found, state_after(2))
    assert str(checkpoints(tmp_path)[-1]) in caplog.text


def test_a_checkpoint_of_other_settings_is_refused(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, state_after(2), "f", keep=2)
    with pytest.raises(RunError, match="start a new run"):
        newest_checkpoint(tmp_path, "g")


def versions(store: ClientStore, client_id: int) -> list[int]:
    return [int(path.stem) for path in store.versions(client_id)]


def test_clients_keep_the_states_that_checkpoints_need(tmp_path: Path) -> None:
    store = ClientStore(tmp_path)
    for done in (1, 3, 4, 7, 9, 12, 13):
        kept = [rounds for rounds in (5, 10) if rounds < done]
        store.save(0, done, {"client_emb": torch.full((2,), float(done))}, kept)
    assert versions(store, 0) == [4, 9, 12, 13]  # of round 5, of round 10, and the newest two
    loaded = store.load(0, 10)
    assert loaded is not None
    assert loaded["client_emb"].tolist() == [9.0, 9.0]
    store.rewind(10)
    assert versions(store, 0) == [4, 9]
    assert store.load(0, 3) is None


def test_a_changed_client_state_is_refused(tmp_path: Path) -> None:
    store = ClientStore(tmp_path)
    store.save(0, 1, {"client_emb": torch.ones(8)})
    path = store.versions(0)[0]
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)
    with pytest.raises(RunError, match="other numbers"):
        store.load(0)
    path.write_bytes(raw[:20])
    with pytest.raises(RunError, match="client's state"):
        store.load(0)
