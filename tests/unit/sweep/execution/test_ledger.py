"""What is known of a sweep's trials between one command and the next."""

import fcntl
import json
import signal
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.load import load_config
from pipeline.config.tracking import TrackingConfig
from spire_core.errors import ClusterError
from sweeps.design.config import SweepConfig
from sweeps.execution.ledger import Ledger
from sweeps.execution.progress import read_progress
from sweeps.execution.trial import TrialTask, run_trial
from sweeps.execution.trial_record import TrialRecord

HOLD = """
import sys, time
from pathlib import Path
from sweeps.execution.ledger import Ledger
print("ready", flush=True)
with Ledger(Path(sys.argv[1])).held("abc"):
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
"""


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger.of(SweepConfig(name="study"), TrackingConfig(root=str(tmp_path)))


def test_what_is_written_is_read_back(ledger: Ledger, tmp_path: Path) -> None:
    entry = TrialRecord("abc", "finished", str(tmp_path / "runs" / "17"), {"a": 1}, {"metrics": {}})
    assert ledger.read("abc") is None
    ledger.write(entry)
    assert ledger.read("abc") == entry
    assert entry.run_id == "17"
    assert ledger.records(["other", "abc"]) == {"abc": entry}
    assert ledger.folder == tmp_path / "studies" / f"study-{SweepConfig(name='study').key}"


def test_an_update_keeps_the_rest(ledger: Ledger) -> None:
    ledger.write(TrialRecord("abc", "running", "/runs/17", {"a": 1}))
    told = ledger.update("abc", status="failed", error="expected x, got y: z")
    assert told == TrialRecord("abc", "failed", "/runs/17", {"a": 1}, None, "expected x, got y: z")
    assert ledger.read("abc") == told
    assert ledger.update("new", status="failed") == TrialRecord("new", "failed")
    ledger.write_traceback("abc", "Traceback ...")
    assert ledger.records(["abc", "new"]).keys() == {"abc", "new"}


def test_points_are_kept_in_the_order_in_which_they_were_drawn(ledger: Ledger) -> None:
    assert ledger.draws() == []
    points = [{"client.lr": 0.1234567890123456789, "method": 1}, {"client.lr": 1e-9, "method": 0}]
    for point in points:
        ledger.add_draw(point)
    assert ledger.draws() == points


def test_a_line_that_was_cut_off_is_no_point(ledger: Ledger) -> None:
    ledger.add_draw({"a": 1})
    file = ledger.folder / "draws.jsonl"
    file.write_text(file.read_text() + '\n{"a":')
    assert ledger.draws() == [{"a": 1}]
    ledger.add_draw({"a": 2})
    assert ledger.draws() == [{"a": 1}, {"a": 2}]


def test_the_sweeps_own_run_is_known_also_when_its_folder_was_deleted(
    ledger: Ledger, tmp_path: Path
) -> None:
    assert ledger.parent_run_dir is None
    ledger.remember_parent(tmp_path / "runs" / "17")
    assert ledger.parent_run_dir == tmp_path / "runs" / "17"


def test_what_a_power_cut_has_emptied_has_never_begun(ledger: Ledger, tmp_path: Path) -> None:
    ledger.write(TrialRecord("abc", "finished"))
    ledger.write(TrialRecord("other", "finished"))
    ledger.remember_parent(tmp_path / "runs" / "17")
    for file in ("trials/abc.json", "sweep.json"):
        (ledger.folder / file).write_text("")
    assert ledger.records(["abc", "other"]) == {"other": TrialRecord("other", "finished")}
    assert ledger.parent_run_dir is None
    assert ledger.update("abc", status="failed") == TrialRecord("abc", "failed")


WHOLE = {"trial_id": "abc", "status": "finished", "run_dir": None, "point": None}
WHOLE |= {"result": {"metrics": {"a": 1.0}}, "error": None}
DAMAGED = [
    b"",
    b"\xff\xfe",
    b"null",
    b"[]",
    b"{}",
    b'"text"',
    b"[" * 100_000,
    json.dumps(WHOLE | {"unknown": 1}).encode(),
    json.dumps({k: v for k, v in WHOLE.items() if k != "status"}).encode(),
    json.dumps(WHOLE | {"trial_id": "other"}).encode(),
    json.dumps(WHOLE | {"status": "ended"}).encode(),
    json.dumps(WHOLE | {"status": []}).encode(),
    json.dumps(WHOLE | {"run_dir": 3}).encode(),
    json.dumps(WHOLE | {"run_dir": "a\0b"}).encode(),
    json.dumps(WHOLE | {"point": [1]}).encode(),
    json.dumps(WHOLE | {"result": {}}).encode(),
    json.dumps(WHOLE | {"result": {"metrics": {"a": "b"}}}).encode(),
    json.dumps(WHOLE | {"result": WHOLE["result"] | {"artifacts": 1}}).encode(),
    json.dumps(WHOLE | {"error": {}}).encode(),
]


@pytest.mark.parametrize("content", DAMAGED, ids=range(len(DAMAGED)))
def test_a_damaged_record_counts_as_missing(ledger: Ledger, content: bytes) -> None:
    ledger.write(TrialRecord(**WHOLE))
    assert ledger.read("abc") == TrialRecord(**WHOLE)
    (ledger.folder / "trials" / "abc.json").write_bytes(content)
    assert ledger.read("abc") is None
    (ledger.folder / "sweep.json").write_bytes(content)
    assert ledger.parent_run_dir is None
    sweep = SweepConfig(name="study", preset="smoke")
    assert [trial.config.seed for trial in read_progress(sweep, ledger).left()] == [0]


@pytest.mark.parametrize("run_dir", [None, 3, [], "", "a\0b"])
def test_what_names_no_folder_counts_as_missing(ledger: Ledger, run_dir: object) -> None:
    ledger.folder.mkdir(parents=True)
    (ledger.folder / "sweep.json").write_text(json.dumps({"run_dir": run_dir}))
    assert ledger.parent_run_dir is None


@pytest.mark.parametrize(
    "line",
    [
        *(b"\xff\xfe\x00", b"[]", b"3", b"{", b"[" * 100_000, b"{}", b'{"adapt.lr": 0.1}'),
        *(b'{"adapt.lr": "x", "method": 0}', b'{"adapt.lr": NaN, "method": 0}'),
        *(b'{"adapt.lr": 0.1, "method": 2}', b'{"adapt.lr": 0.1, "method": -1}'),
        *(b'{"adapt.lr": 0.1, "method": 0.5}', b'{"adapt.lr": 0.1, "method": true}'),
        b'{"adapt.lr": 1, "a": 0}',
    ],
)
def test_a_damaged_draw_is_drawn_again(ledger: Ledger, line: bytes) -> None:
    axes = {"adapt.lr": {"min": 0.01, "max": 1.0}, "method": ["spire", "fedavg_ft"]}
    sweep = SweepConfig("study", "smoke", axes=axes, search="optuna", num_trials=2)
    ledger.add_draw({"adapt.lr": 0.5, "method": 1})
    with (ledger.folder / "draws.jsonl").open("ab") as file:
        file.write(b"\n" + line)
    progress = read_progress(sweep, ledger)
    [trial] = progress.trials
    assert (trial.config.adapt.lr, trial.config.method.name) == (0.5, "fedavg_ft")
    assert progress.num_undrawn == 1


def test_a_trial_that_was_lost_after_it_had_finished_is_finished(ledger: Ledger) -> None:
    result = {"metrics": {"final/adapt_kid_after": 1.5}}
    ledger.write(TrialRecord("t", "failed", result=result, error="its process was lost"))
    config = load_config("smoke", [])
    reports: list[dict[str, float]] = []
    task = TrialTask("t", config, "smoke", {}, str(ledger.folder), None, None, {})
    with ledger.joined():
        run_trial(task, reports.append)
    assert ledger.read("t") == TrialRecord("t", "finished", result=result)
    assert [report["final/adapt_kid_after"] for report in reports] == [1.5]


def test_a_node_without_the_sweeps_folder_runs_no_trial(ledger: Ledger, tmp_path: Path) -> None:
    """Its records and runs would lie on its own disk, where no command finds them."""
    task = TrialTask("t", load_config("smoke", []), "smoke", {}, str(ledger.folder), None, None, {})
    with pytest.raises(ClusterError, match=r"on every node, got none on .*: name one that all"):
        run_trial(task, lambda _: None)
    assert list(tmp_path.iterdir()) == []


def test_a_trial_belongs_to_one_process_until_that_ends(ledger: Ledger) -> None:
    command = [sys.executable, "-c", HOLD, str(ledger.folder)]
    pipe = subprocess.PIPE
    first = subprocess.Popen([*command, "600"], stdout=pipe, text=True)
    second = None
    try:
        assert first.stdout is not None
        assert [first.stdout.readline() for _ in range(2)] == ["ready\n", "held\n"]
        second = subprocess.Popen([*command, "0"], stdout=pipe, text=True)
        assert second.stdout is not None
        assert second.stdout.readline() == "ready\n"
        with pytest.raises(subprocess.TimeoutExpired) as waits:
            second.communicate(timeout=0.5)
        assert waits.value.output is None
        with ledger.held("another"):
            first.send_signal(signal.SIGKILL)
        out, _ = second.communicate(timeout=240)
        assert (out, second.returncode) == ("held\n", 0)
    finally:
        for process in filter(None, (first, second)):
            process.kill()
            process.communicate()


def test_what_commands_share_can_be_locked_on_nfs(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Linux refuses a shared lock of NFS 4 on a file that cannot be read, and the other kind on one
    that cannot be written.
    """
    asked: list[tuple[int, str]] = []

    def flock(file: Any, kind: int) -> None:
        asked.append((kind & ~fcntl.LOCK_NB, file.mode))

    monkeypatch.setattr(fcntl, "flock", flock)
    with ledger.joined() as is_last, ledger.held("a"):
        assert is_last()
    assert [kind for kind, _ in asked] == [fcntl.LOCK_SH, fcntl.LOCK_EX, fcntl.LOCK_EX]
    for kind, mode in asked:
        assert "+" in mode or mode == ("r" if kind == fcntl.LOCK_SH else "w")


def test_of_two_commands_that_end_at_once_on_nfs_one_is_the_last(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NFS makes a `flock` a lock of ranges, whose share stays where the whole is refused."""

    def flock(file: Any, kind: int) -> None:
        kinds = {fcntl.LOCK_SH: fcntl.F_RDLCK, fcntl.LOCK_EX: fcntl.F_WRLCK}
        wanted = kinds.get(kind & ~fcntl.LOCK_NB, fcntl.F_UNLCK)
        fcntl.fcntl(file, fcntl.F_OFD_SETLK, struct.pack("hhqqi4x", wanted, 0, 0, 0, 0))

    monkeypatch.setattr(fcntl, "flock", flock)
    with ledger.joined() as one_is_last, ledger.joined() as other_is_last:
        assert not one_is_last()
        assert other_is_last()
