"""A key in its file: read as it was written, and gone as soon as its deletion has begun."""

import os
from pathlib import Path

import pytest

from pipeline.runs.key_file import drop_key, read_key, write_key
from pipeline.runs.noise_key import read_noise
from spire_core.config.privacy import PrivacyConfig
from spire_core.errors import RunError

KEY = bytes(range(32))


def test_a_key_is_read_as_it_was_written_and_dropped(tmp_path: Path) -> None:
    path = tmp_path / "noise.key"
    write_key(path, KEY)
    assert read_key(path, 32, "noise key", "start a new run") == KEY
    assert path.stat().st_mode & 0o777 == 0o600
    drop_key(path)
    assert not path.exists()


def test_a_key_whose_deletion_was_interrupted_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is zeros by then, and everybody knows these."""
    path = tmp_path / "noise.key"
    write_key(path, KEY)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", _killed)
        with pytest.raises(KeyboardInterrupt):
            drop_key(path)
    assert path.read_bytes() == bytes(32)
    with pytest.raises(RunError, match=r"^expected a noise key of 32 .*, got 0: start a new run$"):
        read_noise(tmp_path, PrivacyConfig())


def _killed(_: int) -> None:
    raise KeyboardInterrupt
