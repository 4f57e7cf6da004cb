"""A run's outbox and its relay, into a sink of the test: nothing lost, nothing twice."""

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from pipeline.runs.layout import DONE, OUTBOX, OUTBOX_LOCK, REFUSED
from pipeline.tracking import relay
from pipeline.tracking.outbox import (
    Entry,
    Outbox,
    entries,
    num_refused,
    num_waiting,
    read_cursor,
    read_points,
    write_cursor,
)
from pipeline.tracking.relay import Refusal, RelayThread, relay_all


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make short pauses."""
    monkeypatch.setattr(relay, "PAUSES_S", (0.01, 0.02))
    monkeypatch.setattr(relay, "LINGER_S", 0.01)
    monkeypatch.setattr(relay, "LOCK_WAIT_S", 0.2)


class Fake:
    """Keeps the batches that it is sent; fails with what it is told to fail with."""

    address = "fake"

    def __init__(self) -> None:
        self.batches: list[list[Entry]] = []
        self.error: Exception | None = None

    def send(self, entries: Sequence[Entry]) -> None:
        if self.error is not None:
            raise self.error
        if any("bad" in entry.get("metrics", ()) for entry in entries):
            raise Refusal("bad is no name")
        self.batches.append(list(entries))

    @property
    def steps(self) -> list[int]:
        return [entry["step"] for batch in self.batches for entry in batch if "step" in entry]


def points(*steps: int) -> list[tuple[int, dict[str, float]]]:
    return [(step, {"a": float(step)}) for step in steps]


@pytest.mark.parametrize("moment", ["halfway", "after"])
def test_a_number_is_told_once_though_an_interrupt_ends_the_call(
    moment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outbox, opened = Outbox(tmp_path), Path.open
    outbox.append_points(points(1))

    @contextlib.contextmanager
    def interrupted(path: Path, mode: str) -> Iterator[Any]:
        with opened(path, mode) as file:
            if moment == "after":
                yield file
            elif moment == "halfway":
                file.write(b'{"kind": "metr')
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", interrupted)
        with pytest.raises(KeyboardInterrupt):
            outbox.append_points(points(2))
    outbox.append_points(points(2))
    outbox.append_points(points(3))
    steps = [json.loads(line)["step"] for line in (tmp_path / OUTBOX).read_bytes().splitlines()]
    assert steps == [1, 2, 3]


# ------------------------------------------------------------------------------------- the outbox


def test_a_number_is_told_once_also_by_a_process_that_goes_on(tmp_path: Path) -> None:
    first = Outbox(tmp_path)
    first.append_points([(1, {"a": 1.0, "b": 1.0}), (2, {"a": 2.0})])
    first.append_points([(2, {"a": 2.5})])
    second = Outbox(tmp_path)
    second.append_points([(2, {"a": 2.7, "b": 2.0}), (3, {"a": 3.0})])
    assert read_points(tmp_path) == [
        (1, {"a": 1.0, "b": 1.0}),
        (2, {"a": 2.0, "b": 2.0}),
        (3, {"a": 3.0}),
    ]
    assert num_waiting(tmp_path) == 4


def test_a_line_that_a_crash_has_cut_off_is_skipped(tmp_path: Path) -> None:
    Outbox(tmp_path).append_points(points(1, 2))
    with (tmp_path / OUTBOX).open("a") as file:
        file.write('{"kind": "metrics", "time_ms": 5, "st')
    assert read_points(tmp_path) == points(1, 2)
    Outbox(tmp_path).append_points(points(3))
    assert read_points(tmp_path) == points(1, 2, 3)
    fake = Fake()
    assert relay_all(tmp_path, fake) == (3, None)
    assert fake.steps == [1, 2, 3]
    assert num_waiting(tmp_path) == 0


# --------------------------------------------------------------------------------------- the relay


def test_metrics_travel_together_in_order_and_nothing_overtakes_them(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path)
    outbox.append("tags", tags={})
    outbox.append_points([(step, {f"m{i}": 0.0 for i in range(7)}) for step in range(45)])
    outbox.append("status", status="FINISHED")
    fake = Fake()
    assert relay_all(tmp_path, fake) == (47, None)
    assert [len(batch) for batch in fake.batches] == [1, 20, 20, 5, 1]
    assert [e for batch in fake.batches for e in batch] == [e for e, _ in entries(tmp_path)]
    assert relay_all(tmp_path, fake) == (0, None)


def wait_until(is_true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not is_true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_entries_wait_for_a_store_that_is_away_and_the_log_says_so_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    outbox, fake = Outbox(tmp_path), Fake()
    beside = RelayThread(tmp_path, fake)
    outbox.append_points(points(*range(20)))
    wait_until(lambda: num_waiting(tmp_path) == 0)
    fake.error = ConnectionError("http://me:secret@host is down")
    outbox.append_points(points(*range(20, 40)))
    wait_until(lambda: bool(caplog.records))
    assert num_waiting(tmp_path) == 20
    fake.error = None
    wait_until(lambda: num_waiting(tmp_path) == 0)
    outbox.append_points(points(*range(40, 60)))
    assert beside.close(10) == 0
    assert fake.steps == list(range(60))
    [away] = [record.getMessage() for record in caplog.records]
    assert "(http://me:***@host is down): all is kept in" in away


def test_another_store_begins_at_the_first_entry(tmp_path: Path) -> None:
    outbox, fake, other = Outbox(tmp_path), Fake(), Fake()
    outbox.append_points(points(0, 1, 2))
    assert relay_all(tmp_path, fake) == (3, None)
    outbox.append_points(points(3))
    other.address = "other"
    assert num_waiting(tmp_path) == 1
    assert relay_all(tmp_path, other) == (4, None)
    assert (fake.steps, other.steps) == ([0, 1, 2], [0, 1, 2, 3])


def test_what_will_never_be_taken_is_put_aside_and_the_rest_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    outbox, fake = Outbox(tmp_path), Fake()
    outbox.append_points([(step, {"bad" if step in (3, 7) else "a": 0.0}) for step in range(10)])
    assert relay_all(tmp_path, fake) == (8, None)
    assert fake.steps == [0, 1, 2, 4, 5, 6, 8, 9]
    aside = [json.loads(line) for line in (tmp_path / REFUSED).read_text().splitlines()]
    assert [(one["step"], one["reason"]) for one in aside] == [
        (3, "bad is no name"),
        (7, "bad is no name"),
    ]
    assert (num_waiting(tmp_path), num_refused(tmp_path)) == (0, 2)
    assert ["refuses an entry" in r.getMessage() for r in caplog.records] == [True] * 2


def test_a_cursor_beyond_the_file_does_not_hide_what_comes(tmp_path: Path) -> None:
    """Lines that were delivered are lost with the power; the rounds are computed again."""
    outbox, fake = Outbox(tmp_path), Fake()
    outbox.append_points(points(*range(5)))
    write_cursor(tmp_path, 10**6, "fake")
    Outbox(tmp_path).append_points(points(5))
    assert relay_all(tmp_path, fake) == (1, None)
    assert fake.steps == [5]


def test_a_folder_that_cannot_be_written_for_a_while_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Outbox(tmp_path).append_points(points(0))
    fake = Fake()
    with monkeypatch.context() as patched:
        patched.setattr("pipeline.tracking.outbox.write_whole", full)
        assert relay_all(tmp_path, fake) == (0, "No space left on device")
    assert not (tmp_path / DONE).exists()
    assert relay_all(tmp_path, fake)[1] is None
    assert set(fake.steps) == {0}  # the same entry each time, which changes nothing in a store
    assert num_waiting(tmp_path) == 0


def full(*_: object) -> None:
    raise OSError("No space left on device")


def test_two_processes_do_not_send_at_once(tmp_path: Path) -> None:
    Outbox(tmp_path).append_points(points(0))
    fake = Fake()
    with FileLock(tmp_path / OUTBOX_LOCK):
        assert "could not be acquired" in (relay_all(tmp_path, fake)[1] or "")
        beside = RelayThread(tmp_path, fake)
    assert beside.close(10) == 0
    assert fake.steps == [0]
    assert read_cursor(tmp_path) == ((tmp_path / OUTBOX).stat().st_size, "fake")
