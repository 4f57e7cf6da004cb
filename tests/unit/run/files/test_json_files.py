"""A run's folder belongs to one process at a time, and to nobody once that has died."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.files.json_files import read_json, write_json
from pipeline.runs.folder import run_lock
from spire_core.errors import RunError

HOLDER = """
import sys, time
from pathlib import Path
from pipeline.runs.folder import run_lock
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
            told = f"nobody at work on the run in {tmp_path}, got process {first.pid} on .*: wait"
            with pytest.raises(RunError, match=told), run_lock(tmp_path):
                pass
        finally:
            first.kill()
    with run_lock(tmp_path), pytest.raises(RunError, match="got process"), run_lock(tmp_path):
        pass
    with run_lock(tmp_path):
        pass


def test_two_runs_of_one_root_do_not_meet(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
    with run_lock(tmp_path / "a"), run_lock(tmp_path / "b"):
        pass


def test_values_are_on_the_disk_before_they_have_their_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, synced = tmp_path / "values.json", list[bool]()
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(path.exists()))
    write_json(path, {"a": [1]})
    assert synced == [False]
    assert read_json(path) == {"a": [1]}


@pytest.mark.parametrize("content", [b"", b"\0" * 40, b'{"a": ', b"[1]", b"\xff"])
def test_a_damaged_file_is_as_if_it_were_not_there(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "values.json"
    assert read_json(path) is None
    path.write_bytes(content)
    assert read_json(path) is None
