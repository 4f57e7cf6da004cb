"""Pre-training that several trials have in common is done by one process at a time, and once."""

import json
import os
import platform
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from sweeps.execution.shared_pretraining import SharedPretraining

TAKE_PART = """
import sys, time
from pathlib import Path
from sweeps.execution.shared_pretraining import SharedPretraining
folder, name, hold_s = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3])
shared = SharedPretraining(folder, "abc")
print("ready", flush=True)
source = shared.acquire()
if source is None:
    print("mine", flush=True)
    time.sleep(hold_s)
    (folder / name).mkdir()
    shared.publish(folder / name)
else:
    print(source.name, flush=True)
"""


def start(folder: Path, name: str, hold_s: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", TAKE_PART, str(folder), name, str(hold_s)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def next_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_of_processes_that_begin_at_once_one_does_the_work(tmp_path: Path) -> None:
    names = ("a", "b", "c")
    processes = {name: start(tmp_path, name, 1.0) for name in names}
    outputs = {name: process.communicate(timeout=240)[0] for name, process in processes.items()}
    said = {name: output.removeprefix("ready\n").strip() for name, output in outputs.items()}
    [worker] = [name for name, text in said.items() if text == "mine"]
    assert [text for text in said.values() if text != "mine"] == [worker, worker]
    assert sorted(p.name for p in tmp_path.iterdir() if p.is_dir()) == [worker]


def test_one_that_is_killed_blocks_nobody(tmp_path: Path) -> None:
    first = start(tmp_path, "first", 600.0)
    second = None
    try:
        assert [next_line(first) for _ in range(2)] == ["ready", "mine"]
        second = start(tmp_path, "second", 0.0)
        assert next_line(second) == "ready"
        with pytest.raises(subprocess.TimeoutExpired) as waits:
            second.communicate(timeout=0.5)
        assert waits.value.output is None
        first.send_signal(signal.SIGKILL)
        assert second.communicate(timeout=240)[0] == "mine\n"
        assert (tmp_path / "second").is_dir()
    finally:
        for process in filter(None, (first, second)):
            process.kill()
            process.communicate()


def test_what_is_released_is_done_by_the_next(tmp_path: Path) -> None:
    failing, next_one = (SharedPretraining(tmp_path, "abc") for _ in range(2))
    assert failing.acquire() is None
    found: list[Path | None] = []
    waiting = threading.Thread(target=lambda: found.append(next_one.acquire()), daemon=True)
    waiting.start()
    waiting.join(timeout=0.2)
    assert waiting.is_alive()
    failing.release()
    waiting.join(timeout=60)
    assert found == [None]
    next_one.publish(tmp_path)
    assert SharedPretraining(tmp_path, "abc").acquire() == tmp_path
    failing.publish(tmp_path / "elsewhere")  # has no lock any more: says nothing
    assert SharedPretraining(tmp_path, "abc").acquire() == tmp_path


def test_who_waits_long_says_for_whom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("sweeps.execution.ledger.NOTICE_S", 0.0)
    monkeypatch.setattr("sweeps.execution.shared_pretraining.POLL_S", 0.01)
    working, waiting = (SharedPretraining(tmp_path, "abc") for _ in range(2))
    assert working.acquire() is None
    thread = threading.Thread(target=waiting.acquire, daemon=True)
    thread.start()
    thread.join(timeout=0.3)
    working.publish(tmp_path)
    thread.join(timeout=60)
    held = f"process {os.getpid()} on {platform.node()}, which holds {tmp_path}/abc.lock"
    assert [record.getMessage() for record in caplog.records] == [f"waiting for {held}"]


def test_who_waits_looks_once_at_what_is_not_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To read all of a run's checkpoints, and warn of each, twice a second would take a core."""
    monkeypatch.setattr("sweeps.execution.shared_pretraining.POLL_S", 0.01)
    looks: list[Path] = []

    def is_whole(run_dir: Path) -> bool:
        looks.append(run_dir)
        return run_dir.is_dir()

    working, waiting = (SharedPretraining(tmp_path, "abc", is_whole) for _ in range(2))
    damaged = tmp_path / "damaged"
    working.record.write_text(json.dumps({"run_dir": str(damaged)}))
    assert working.acquire() is None
    found: list[Path | None] = []
    thread = threading.Thread(target=lambda: found.append(waiting.acquire()), daemon=True)
    thread.start()
    thread.join(timeout=0.3)
    assert looks == [damaged, damaged]  # one look each
    damaged.mkdir()
    working.publish(damaged)
    thread.join(timeout=60)
    assert found == [damaged]


def test_another_pretraining_is_not_waited_for(tmp_path: Path) -> None:
    one, other = SharedPretraining(tmp_path, "abc"), SharedPretraining(tmp_path, "def")
    assert one.acquire() is None
    assert other.acquire() is None
    one.release()
    other.release()


@pytest.mark.parametrize("is_there", [True, False])
def test_a_run_that_was_deleted_is_done_again(is_there: bool, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    shared = SharedPretraining(tmp_path, "abc")
    assert shared.acquire() is None
    shared.publish(run_dir)
    if is_there:
        run_dir.mkdir()
    again = SharedPretraining(tmp_path, "abc")
    assert again.acquire() == (run_dir if is_there else None)
    again.release()


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"run_dir": null}', '{"run_dir": 3}'])
def test_a_damaged_record_is_none(content: str, tmp_path: Path) -> None:
    shared = SharedPretraining(tmp_path, "abc")
    shared.record.write_text(content)
    assert shared.acquire() is None
    shared.publish(tmp_path)
    assert SharedPretraining(tmp_path, "abc").acquire() == tmp_path
