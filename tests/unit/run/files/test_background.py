"""Work in a thread: its result, its error, and a process that ends without it."""

import subprocess
import sys

import pytest

from pipeline.files.background import in_background

LEFT = """
from threading import Event
from pipeline.files.background import in_background
in_background(Event().wait, "hangs")
"""


def test_work_hands_back_its_result_or_its_error() -> None:
    assert in_background(lambda: 7, "seven").result(60) == 7
    with pytest.raises(ZeroDivisionError):
        in_background(lambda: 1 // 0, "nothing").result(60)


def test_a_process_ends_without_work_that_hangs() -> None:
    assert subprocess.run([sys.executable, "-c", LEFT], timeout=60, check=False).returncode == 0
