"""A run's folder belongs to one process at a time, and to nobody once that has died."""

import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.run_files import held
from spire_core.errors import RunError

HOLDER = """
import sys, time
from pathlib import Path
from pipeline.run_files import held
with held(Path(sys.argv[1])):
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
            with pytest.raises(RunError, match=told), held(tmp_path):
                pass
        finally:
            first.kill()
    with held(tmp_path), pytest.raises(RunError, match="got process"), held(tmp_path):
        pass
    with held(tmp_path):
        pass


def test_two_runs_of_one_root_do_not_meet(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
    with held(tmp_path / "a"), held(tmp_path / "b"):
        pass
