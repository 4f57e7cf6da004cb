"""An upload that takes long, as to a storage that hangs: it is told of while rounds go on."""

import itertools
import logging
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from pyarrow.fs import LocalFileSystem

from pipeline.checkpoint import remote
from pipeline.checkpoint.remote import Mirror


class Hanging(Mirror):
    """A mirror whose uploads end when they may."""

    def __init__(self, run_dir: Path) -> None:
        super().__init__(run_dir, LocalFileSystem(), "there")
        self.may_end = threading.Event()
        self.begun: list[int] = []

    def upload(self, num_rounds_done: int) -> None:
        self.begun.append(num_rounds_done)
        assert self.may_end.wait(60)


@pytest.fixture
def mirror(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> Hanging:
    caplog.set_level(logging.WARNING)
    return Hanging(tmp_path)


def test_one_that_is_not_over_after_a_minute_is_named_and_counted_once(
    mirror: Hanging, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = itertools.count(1000.0, 25.0)
    monkeypatch.setattr(remote, "time", SimpleNamespace(monotonic=lambda: next(now)))
    for done in (10, 20, 30):
        mirror.begin(done)
    assert (mirror.num_failed, caplog.messages) == (0, [])  # it may be slow
    for done in (40, 50, 60):
        mirror.begin(done)
    assert (mirror.num_failed, mirror.begun) == (1, [10])
    [text] = caplog.messages
    assert text == (
        "the checkpoint after round 40 is not at there (that after round 10 has been on its way "
        "for 75 s): tried again at the next one"
    )
    mirror.may_end.set()


def test_when_it_has_ended_the_next_one_begins(
    mirror: Hanging, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "LONG_UPLOAD_S", 0.0)
    mirror.begin(10)
    mirror.begin(20)
    mirror.may_end.set()
    mirror.close(60)
    mirror.may_end.clear()
    mirror.begin(30)
    mirror.begin(40)  # of another upload
    mirror.may_end.set()
    mirror.close(60)
    assert (mirror.begun, mirror.num_failed) == ([10, 30], 2)
    assert ["round 20" in caplog.messages[0], "round 40" in caplog.messages[1]] == [True, True]
