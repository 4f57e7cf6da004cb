"""Checkpoints on disk: whole or not there, damaged ones named, and clients' states beside them."""

import hashlib
import json
import logging
import os
import re
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.checkpoint import checkpointer
from pipeline.checkpoint.snapshots import (
    checkpoints,
    drop_unfinished,
    kept_rounds,
    new_state_file,
    newest_checkpoint,
    save_checkpoint,
)
from pipeline.clients.store import ClientStore
from pipeline.config.load import load_config
from pipeline.files.run_format import FORMAT
from pipeline.runs.server_state import write_state
from spire_core.errors import ClusterError, FormatError, RunError
from spire_core.federated.messages import AdamMoments
from spire_core.federated.private_state import PrivateState
from spire_core.federated.server import ServerState
from spire_core.training.adam import PartMoments


def state_after(rounds: int) -> ServerState:
    rng = np.random.default_rng(rounds)
    weights = rng.normal(size=50).astype(np.float32)
    moments = AdamMoments(weights + 2, weights + 3, weights[:3])
    return ServerState(rounds, weights, weights + 1, moments, velocity=rng.normal(size=50))


def checkpoint(run_dir: Path, state: ServerState, keep: int) -> None:
    written = partial(write_state, new_state_file(run_dir, state.round_idx), state)
    save_checkpoint(run_dir, state.round_idx, written, "f", keep)


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


def test_what_was_saved_comes_back_bit_for_bit(tmp_path: Path) -> None:
    assert newest_checkpoint(tmp_path, "f") is None
    checkpoint(tmp_path, state_after(3), keep=2)
    assert same(newest_checkpoint(tmp_path, "f"), state_after(3))


def test_the_newest_are_kept_and_nothing_half_written(tmp_path: Path) -> None:
    for rounds in (2, 4, 6, 8):
        checkpoint(tmp_path, state_after(rounds), keep=3)
    assert kept_rounds(tmp_path) == (4, 6, 8)
    (tmp_path / "checkpoints" / ".abc.part").mkdir()  # a crash in the middle of writing
    assert kept_rounds(tmp_path) == (4, 6, 8)
    checkpoint(tmp_path, state_after(8), keep=3)  # the same round again
    assert same(newest_checkpoint(tmp_path, "f"), state_after(8))


def test_rounds_beyond_seven_digits_are_the_newest(tmp_path: Path) -> None:
    for rounds in (9_999_950, 10_000_000, 10_000_050):
        checkpoint(tmp_path, state_after(rounds), keep=2)
    assert kept_rounds(tmp_path) == (10_000_000, 10_000_050)
    checkpoint(tmp_path, state_after(9_999_999), keep=3)
    assert kept_rounds(tmp_path) == (9_999_999, 10_000_000, 10_000_050)
    assert same(newest_checkpoint(tmp_path, "f"), state_after(10_000_050))


def test_the_file_of_one_that_nobody_needs_is_written_over(tmp_path: Path) -> None:
    """The newest are whole whenever a new one is being written, and no other file is touched."""
    inodes = []
    for rounds in range(1, 7):
        path = new_state_file(tmp_path, rounds)
        write_state(path, state_after(rounds))
        inodes.append(path.stat().st_ino)
        if rounds > 1:  # a crash here
            assert same(newest_checkpoint(tmp_path, "f"), state_after(rounds - 1))
            assert len(kept_rounds(tmp_path)) == min(2, rounds - 1)
        save_checkpoint(tmp_path, rounds, lambda: rounds, "f", keep=2)  # noqa: B023
    assert inodes[:3] == inodes[3:]
    assert len(set(inodes)) == 3
    drop_unfinished(tmp_path)
    for name in ("0000006", "0000005"):
        assert same(newest_checkpoint(tmp_path, "f"), state_after(int(name)))
        harm(tmp_path / "checkpoints" / name / "manifest.json", "gone")


def test_all_that_a_checkpoint_counts_on_is_on_the_disk_before_its_manifest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ClientStore(tmp_path / "clients").save(0, 1, PrivateState({"client_emb": torch.ones(8)}))
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
    checkpoint(tmp_path, state_after(1), keep=1)
    part, client = tmp_path / "checkpoints" / ".0000001.part", tmp_path / "clients" / "0000000"
    manifest = next(path for path in synced if path.parent == part and path.suffix == ".part")
    before, after = synced[: synced.index(manifest)], synced[synced.index(manifest) + 1 :]
    files = {part / "server.safetensors", client / "0000001.safetensors", evaluation, outbox}
    assert files | {client, evaluation.parent, tmp_path} <= {*before}
    assert after == [part, tmp_path / "checkpoints"]


def test_a_checkpoint_that_is_being_uploaded_is_not_dropped(tmp_path: Path) -> None:
    for done in (1, 2, 3, 4):
        written = partial(write_state, new_state_file(tmp_path, done), state_after(done))
        save_checkpoint(tmp_path, done, written, "f", keep=2, pinned_rounds=(1,))
    assert kept_rounds(tmp_path) == (1, 3, 4)
    harm(tmp_path / "checkpoints" / "0000004" / "manifest.json", "gone")
    harm(tmp_path / "checkpoints" / "0000003" / "manifest.json", "gone")
    assert same(newest_checkpoint(tmp_path, "f"), state_after(1))


def test_a_checkpoint_whose_state_does_not_come_leaves_nothing(tmp_path: Path) -> None:
    checkpoint(tmp_path, state_after(1), keep=1)

    def lost() -> int:
        raise ClusterError("the driver is lost")

    write_state(new_state_file(tmp_path, 2), state_after(2))
    with pytest.raises(ClusterError, match="lost"):
        save_checkpoint(tmp_path, 2, lost, "f", keep=1)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["0000001"]


def two_checkpoints(run_dir: Path) -> ClientStore:
    """Checkpoints after rounds 2 and 4; client 0 trained in rounds 2 and 4, client 1 in 1 and 3."""
    store, kept = ClientStore(run_dir / "clients"), ()
    for done in (1, 2, 3, 4):
        store.save(
            done % 2, done, PrivateState({"client_emb": torch.full((8,), float(done))}), kept
        )
        if done % 2 == 0:
            checkpoint(run_dir, state_after(done), keep=2)
            kept = kept_rounds(run_dir)
    return store


def flip(path: Path, bit: int) -> None:
    raw = bytearray(path.read_bytes())
    raw[bit // 8] ^= 1 << bit % 8
    path.write_bytes(raw)


def harm(path: Path, damage: str) -> None:
    raw = path.read_bytes()
    if damage == "flipped":
        flip(path, 8 * (len(raw) - 5))  # not in the header, where it may hit the format
    elif damage == "gone":
        path.unlink()
    else:
        path.write_bytes({"cut": raw[: len(raw) // 2], "empty": b""}.get(damage, damage.encode()))


MANIFESTS = ["[]", "null", "3", "{}", '{"manifest_sha256": [], "clients": 1}', '"sha256"']


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        (file, damage)
        for file in ("checkpoints/0000004/server.safetensors", "clients/*/0000004.safetensors")
        for damage in ("flipped", "cut", "empty", "gone")
    ]
    + [
        ("checkpoints/0000004/manifest.json", damage)
        for damage in ("flipped", "cut", "empty", "gone", *MANIFESTS)
    ],
)
def test_whatever_is_damaged_is_named_and_the_checkpoint_before_is_used(
    file: str, damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    two_checkpoints(tmp_path)
    path = next(tmp_path.glob(file))
    harm(path, damage)
    with caplog.at_level(logging.WARNING):
        found = newest_checkpoint(tmp_path, "f")
    assert same(found, state_after(2))
    assert str(path.parent) in caplog.text
    assert path.name in caplog.text


def test_a_manifest_with_the_right_hash_and_wrong_types_is_damaged(tmp_path: Path) -> None:
    two_checkpoints(tmp_path)
    path = checkpoints(tmp_path)[-1] / "manifest.json"
    whole = json.loads(path.read_text())
    del whole["manifest_sha256"]
    for name, value in {
        "round_idx": "4",
        "clients": {"one": 4},
        "evaluations": [None],
        "sha256": [],
        "pretrain_fingerprint": None,
        "more": 1,
    }.items():
        told = whole | {name: value}
        digest = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
        path.write_text(json.dumps(told | {"manifest_sha256": digest}))
        assert same(newest_checkpoint(tmp_path, "f"), state_after(2)), name


def renumbered(text: str, number: int) -> str:
    """Return a manifest's text with another format, and with the right hash."""
    values = {k: v for k, v in json.loads(text).items() if k != "manifest_sha256"}
    values |= {"run_format": number}
    digest = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
    return json.dumps(values | {"manifest_sha256": digest})


@pytest.mark.parametrize("what", ["manifest", "more in it", "client"])
def test_a_checkpoint_of_a_newer_format_is_refused_and_kept(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpointer, "pretrain_fingerprint", lambda config: "f")
    two_checkpoints(tmp_path)
    path = checkpoints(tmp_path)[-1] / "manifest.json"
    if what == "manifest":
        path.write_text(renumbered(path.read_text(), FORMAT + 1))
    elif what == "more in it":  # and a hash of another kind
        path.write_text(
            json.dumps(json.loads(path.read_text()) | {"run_format": FORMAT + 1, "more": [1]})
        )
    else:
        path = checkpoints(tmp_path)[-1].parents[1] / "clients" / "0000000" / "0000004.safetensors"
        here, newer = (b'"run_format":"%d"' % number for number in (FORMAT, FORMAT + 1))
        path.write_bytes(path.read_bytes().replace(here, newer))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(FormatError, match=f"format {FORMAT} in {path}, got format {FORMAT + 1}"):
        newest_checkpoint(tmp_path, "f")
    with pytest.raises(FormatError):
        checkpointer.go_back(tmp_path, load_config("smoke"))
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_without_any_good_checkpoint_there_is_none(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = two_checkpoints(tmp_path)
    needed = [store.path(0, 4), store.path(0, 2)]
    for path in needed:
        harm(path, "flipped")
    with caplog.at_level(logging.WARNING):
        assert newest_checkpoint(tmp_path, "f") is None
    assert [sum(str(path) in r.message for r in caplog.records) for path in needed] == [1, 1]


def test_what_no_checkpoint_needs_may_be_damaged(tmp_path: Path) -> None:
    store = two_checkpoints(tmp_path)
    store.save(0, 5, PrivateState({"client_emb": torch.ones(8)}), kept_rounds(tmp_path))
    store.save(
        7, 0, PrivateState({"client_emb": torch.ones(8)})
    )  # of a new client, which is adapted again
    harm(store.path(0, 5), "flipped")
    harm(store.path(7, 0), "cut")
    assert same(newest_checkpoint(tmp_path, "f"), state_after(4))


@pytest.mark.parametrize(
    ("file", "why"),
    [
        ("checkpoints/0000004/server.safetensors", "Input/output error"),
        ("checkpoints/0000004/manifest.json", "Input/output error"),
        ("clients/*/0000004.safetensors", "Too many levels of symbolic links"),
    ],
)
def test_what_cannot_be_read_now_is_not_given_up(file: str, why: str, tmp_path: Path) -> None:
    """A share that does not answer must not cost the checkpoints that lie on it."""
    two_checkpoints(tmp_path)
    path = next(tmp_path.glob(file))
    path.unlink()
    path.symlink_to("/proc/self/mem" if why.startswith("Input") else path)
    with pytest.raises(RunError, match=f"{why}.*: try again when it can be read"):
        newest_checkpoint(tmp_path, "f")


def test_a_checkpoint_of_other_settings_is_refused(tmp_path: Path) -> None:
    checkpoint(tmp_path, state_after(2), keep=2)
    with pytest.raises(RunError, match="start a new run"):
        newest_checkpoint(tmp_path, "g")


def versions(store: ClientStore, client_id: int) -> list[int]:
    return [int(path.stem) for path in store.versions(client_id)]


def test_clients_keep_the_states_that_checkpoints_need(tmp_path: Path) -> None:
    store = ClientStore(tmp_path)
    for done in (1, 3, 4, 7, 9, 12, 13):
        kept = [rounds for rounds in (5, 10) if rounds < done]
        store.save(0, done, PrivateState({"client_emb": torch.full((2,), float(done))}), kept)
    assert versions(store, 0) == [4, 9, 12, 13]  # of round 5, of round 10, and the newest two
    loaded = store.load(0, 10)
    assert loaded is not None
    assert loaded.parts["client_emb"].tolist() == [9.0, 9.0]
    store.rewind(10)
    assert versions(store, 0) == [4, 9]
    assert store.load(0, 3) is None


def test_a_clients_state_is_not_written_where_there_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"run's folder in which .*/run/clients can be written, got"):
        ClientStore(tmp_path / "run" / "clients").save(
            0, 1, PrivateState({"client_emb": torch.ones(4)})
        )
    assert not (tmp_path / "run").exists()


def is_other(path: Path) -> bool:
    """Return whether the one digit of a file's format, intact or not, says another one."""
    digit = re.search(rb'"run_format":"([1-9])"', path.read_bytes())
    return digit is not None and int(digit[1]) != FORMAT


def test_a_flipped_bit_of_a_client_state_is_seen_in_any_byte(tmp_path: Path) -> None:
    store = ClientStore(tmp_path)
    emb = torch.ones(4)
    moments = PartMoments(emb + 1, emb + 2, torch.ones(1, dtype=torch.int64))
    state = PrivateState({"client_emb": emb}, {"client_emb": moments})
    store.save(0, 1, state)
    path, num_harmless = store.versions(0)[0], 0
    for byte in range(path.stat().st_size):
        flip(path, 8 * byte + byte % 8)
        if is_other(path):
            with pytest.raises(FormatError, match=str(path)):
                store.faults({0: 1}, 1)
        elif store.faults({0: 1}, 1):
            with pytest.raises(RunError, match=str(path)):
                store.load(0)
        else:  # white space in the header, which says nothing
            num_harmless += 1
            found = store.load(0)
            assert found is not None
            assert torch.equal(found.parts["client_emb"], emb)
        flip(path, 8 * byte + byte % 8)
    assert num_harmless < 10


def test_a_cut_client_state_is_refused_wherever_it_is_cut(tmp_path: Path) -> None:
    store = ClientStore(tmp_path)
    store.save(0, 1, PrivateState({"client_emb": torch.ones(4)}))
    path = store.versions(0)[0]
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(RunError, match="client's state"):
            store.load(0)
