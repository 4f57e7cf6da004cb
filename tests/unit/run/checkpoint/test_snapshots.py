"""Checkpoints on disk: whole or not there, damaged ones named, and clients' states beside them."""

import os
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.checkpoint import snapshots
from pipeline.checkpoint.snapshots import (
    go_back,
    kept_rounds,
    new_state_file,
    newest_checkpoint,
    save_checkpoint,
)
from pipeline.clients.store import ClientStore
from pipeline.config.load import load_config
from pipeline.files.tensors import write_arrays
from pipeline.runs.server_state import write_state
from spire_core.errors import RunError
from spire_core.federated.messages import AdamMoments
from spire_core.federated.private_state import PrivateState
from spire_core.federated.server import ServerState
from spire_core.training.adam import PartMoments


def state_after(rounds: int) -> ServerState:
    rng = np.random.default_rng(rounds)
    weights = rng.normal(size=50).astype(np.float32)
    moments = AdamMoments(weights + 2, weights + 3, weights[:3])
    return ServerState(rounds, weights, weights + 1, moments, velocity=rng.normal(size=50))


def checkpoint(run_dir: Path, done: int, keep: int = 2, pinned: tuple[int, ...] = ()) -> None:
    written = partial(write_state, new_state_file(run_dir, done), state_after(done))
    save_checkpoint(run_dir, done, written, "f", keep, pinned)


def embedding(value: float) -> PrivateState:
    return PrivateState({"client_emb": torch.full((8,), value)})


def same(one: ServerState | None, other: ServerState) -> bool:
    assert one is not None
    assert one.moments is not None
    assert other.moments is not None
    found, expected = vars(one) | vars(one.moments), vars(other) | vars(other.moments)
    return all(
        np.array_equal(found[name], value)
        and getattr(found[name], "dtype", None) == getattr(value, "dtype", None)
        for name, value in expected.items()
        if name != "moments"
    )


# --- writing ---


def test_the_newest_are_kept_bit_for_bit_and_nothing_half_written(tmp_path: Path) -> None:
    assert newest_checkpoint(tmp_path, "f") is None
    for rounds in (2, 4, 6, 9_999_950, 10_000_000):  # beyond seven digits
        checkpoint(tmp_path, rounds, keep=2, pinned=(2,))  # one that is being uploaded
    new_state_file(tmp_path, 10_000_050)  # a crash in the middle of writing
    assert kept_rounds(tmp_path) == (2, 9_999_950, 10_000_000)
    assert same(newest_checkpoint(tmp_path, "f"), state_after(10_000_000))


def test_all_that_a_checkpoint_counts_on_is_on_the_disk_before_its_manifest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ClientStore(tmp_path / "clients").save(0, 1, embedding(1.0))
    evaluation, outbox = tmp_path / "evaluations" / "0000000.safetensors", tmp_path / "outbox.jsonl"
    evaluation.parent.mkdir()
    for path in (evaluation, outbox):
        path.write_bytes(b"content")
    synced: list[Path] = []
    monkeypatch.setattr(
        os,
        "fsync",
        lambda descriptor: synced.append(Path(os.readlink(f"/proc/self/fd/{descriptor}"))),
    )
    checkpoint(tmp_path, 1)
    part, client = tmp_path / "checkpoints" / ".0000001.part", tmp_path / "clients" / "0000000"
    manifest = next(path for path in synced if path.parent == part and path.suffix == ".part")
    before, after = synced[: synced.index(manifest)], synced[synced.index(manifest) + 1 :]
    assert before[:2] == [part / "server.safetensors", client / "0000001.safetensors"]
    assert {evaluation, outbox, client, evaluation.parent, tmp_path} <= {*before}
    assert after == [part, tmp_path / "checkpoints"]


# --- reading ---


def two_checkpoints(run_dir: Path) -> ClientStore:
    """Checkpoints after rounds 2 and 4; client 0 trained in rounds 2 and 4, client 1 in 1 and 3."""
    store = ClientStore(run_dir / "clients")
    for done in (1, 2, 3, 4):
        store.save(done % 2, done, embedding(done), kept_rounds(run_dir))
        if done % 2 == 0:
            checkpoint(run_dir, done)
    return store


def harm(path: Path, damage: str) -> None:
    raw = path.read_bytes()
    if damage == "flipped":
        path.write_bytes(raw[:-5] + bytes([raw[-5] ^ 4]) + raw[-4:])
    elif damage == "gone":
        path.unlink()
    else:
        path.write_bytes(raw[: len(raw) // 2])


FILES = ["checkpoints/0000004/server.safetensors", "clients/*/0000004.safetensors"]
FILES += ["checkpoints/0000004/manifest.json"]


@pytest.mark.parametrize(("file", "damage"), [*zip(FILES, ["flipped", "gone", "cut"], strict=True)])
def test_a_damaged_file_is_named_and_the_checkpoint_before_is_used(
    file: str, damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    two_checkpoints(tmp_path)
    path = next(tmp_path.glob(file))
    harm(path, damage)
    assert same(newest_checkpoint(tmp_path, "f"), state_after(2))
    assert str(path) in caplog.text


def test_a_file_that_cannot_be_read_now_is_not_given_up(tmp_path: Path) -> None:
    """A share that does not answer must not cost the checkpoints that lie on it."""
    two_checkpoints(tmp_path)
    path = next(tmp_path.glob(FILES[1]))
    path.unlink()
    path.symlink_to(path)
    with pytest.raises(OSError, match="Too many levels"):
        newest_checkpoint(tmp_path, "f")


def test_a_checkpoint_of_other_settings_is_refused(tmp_path: Path) -> None:
    checkpoint(tmp_path, 2)
    with pytest.raises(RunError, match="start a new run"):
        newest_checkpoint(tmp_path, "g")


def files_below(run_dir: Path, folder: str) -> list[str]:
    found = (path for path in (run_dir / folder).rglob("*") if path.is_file())
    return sorted(path.relative_to(run_dir / folder).as_posix() for path in found)


def test_a_run_that_goes_back_keeps_the_files_of_its_checkpoints_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(snapshots, "pretrain_fingerprint", lambda config: "f")
    store, config = two_checkpoints(tmp_path), load_config("smoke")
    store.save(0, 5, embedding(5.0), kept_rounds(tmp_path))
    (tmp_path / "clients" / "0000000" / "a1.part").write_bytes(b"half")
    (tmp_path / "evaluations").mkdir()
    for done in (2, 4, 5):
        write_arrays(tmp_path / "evaluations" / f"{done:07d}.safetensors", {}, evaluation="{}")
    new_state_file(tmp_path, 6)
    assert same(go_back(tmp_path, config), state_after(4))
    assert {p.name for p in (tmp_path / "checkpoints").iterdir()} == {"0000002", "0000004"}
    assert files_below(tmp_path, "clients") == [
        "0000000/0000002.safetensors",
        "0000000/0000004.safetensors",
        "0000001/0000001.safetensors",
        "0000001/0000003.safetensors",
    ]
    assert files_below(tmp_path, "evaluations") == ["0000004.safetensors"]  # it is not repeated
    harm(tmp_path / "evaluations" / "0000004.safetensors", "cut")
    go_back(tmp_path, config)
    assert files_below(tmp_path, "evaluations") == []
    assert "0000004.safetensors" in caplog.text
    for path in (store.path(0, 4), store.path(0, 2)):
        harm(path, "flipped")
    assert go_back(tmp_path, config) is None
    assert files_below(tmp_path, "clients") == files_below(tmp_path, "checkpoints") == []


# --- the clients' states ---


def test_clients_keep_the_states_that_checkpoints_need(tmp_path: Path) -> None:
    store = ClientStore(tmp_path)
    for done in (1, 3, 4, 7, 9, 12, 13):
        store.save(0, done, embedding(done), [rounds for rounds in (5, 10) if rounds < done])
    versions = [int(path.stem) for path in store.versions(0)]
    assert versions == [4, 9, 12, 13]  # of round 5, of round 10, and the newest two
    loaded = store.load(0, 10)
    assert loaded is not None
    assert torch.equal(loaded.parts["client_emb"], torch.full((8,), 9.0))
    assert store.load(0, 3) is None


def test_a_clients_state_comes_back_with_its_moments_or_is_named(tmp_path: Path) -> None:
    store, emb = ClientStore(tmp_path), torch.ones(4)
    moments = PartMoments(emb + 1, emb + 2, torch.ones(1, dtype=torch.int64))
    store.save(0, 1, PrivateState({"client_emb": emb}, {"client_emb": moments}, guidance=1.5))
    found = store.load(0)
    assert found is not None
    assert found.guidance == 1.5
    assert torch.equal(found.parts["client_emb"], emb)
    for one, other in zip(
        vars(found.moments["client_emb"]).values(), vars(moments).values(), strict=True
    ):
        assert torch.equal(one, other)
    path = store.path(0, 1)
    harm(path, "flipped")
    with pytest.raises(RunError, match=f"in {path}, got other content .*goes back to a checkpoint"):
        store.load(0)


def test_a_clients_state_is_not_written_where_there_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"expected room for .*/run/clients/"):
        ClientStore(tmp_path / "run" / "clients").save(0, 1, embedding(1.0))
    assert not (tmp_path / "run").exists()
