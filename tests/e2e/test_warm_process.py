"""Forks of the hearth are like new processes."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from warm_process import WarmPopen, run_warm

TOLD = """
import json, os, random, signal, sys, uuid
print(json.dumps([sys.argv, sys.path[0], os.getcwd(), os.environ.get("SPIRE_MARK"), __name__,
    os.getsid(0) == os.getpid(), len(os.listdir("/proc/self/fd")), sys.stdin.read(),
    signal.getsignal(signal.SIGINT) is signal.default_int_handler, signal.getsignal(signal.SIGTERM),
    sorted(name for name in os.environ)]))
print("torch" in sys.modules, random.random(), uuid.uuid4().hex, file=sys.stderr)
sys.exit(7)
"""


def test_a_fork_has_what_a_new_process_has(tmp_path: Path) -> None:
    command = [sys.executable, "-c", TOLD, "some", "words"]
    options = {"cwd": tmp_path, "env": os.environ | {"SPIRE_MARK": "here"}, "text": True}
    options |= {"stdin": subprocess.DEVNULL, "start_new_session": True}
    new = subprocess.run(command, capture_output=True, check=False, **options)
    forks = [run_warm(command, capture_output=True, **options) for _ in range(2)]
    assert [fork.returncode for fork in forks] == [new.returncode] * 2 == [7, 7]
    assert [json.loads(fork.stdout) for fork in forks] == [json.loads(new.stdout)] * 2
    had_torch, *random = zip(*(fork.stderr.split() for fork in forks), strict=True)
    assert (new.stderr.split()[0], had_torch) == ("False", ("True", "True"))
    assert all(one != other for one, other in random)


def test_a_module_is_the_command(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pipeline", "run", "smoke", "seed=x"]
    new = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    fork = run_warm(command, cwd=tmp_path, capture_output=True, text=True)
    assert (new.returncode, new.stdout) == (2, "")
    assert (fork.returncode, fork.stdout, fork.stderr) == (2, "", new.stderr)


WAITS = """
import time
try:
    print(1, flush=True)
    time.sleep(600)
except KeyboardInterrupt:
    raise SystemExit(130)
"""


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, -15), (signal.SIGKILL, -9)]
)
def test_a_signal_ends_it(number: signal.Signals, code: int) -> None:
    with WarmPopen([sys.executable, "-c", WAITS], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "1\n"
        assert process.poll() is None
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.1)
        process.send_signal(number)
        assert process.wait(240) == code


def test_an_error_is_a_traceback() -> None:
    fork = run_warm([sys.executable, "-c", "1 / 0"], capture_output=True, text=True)
    assert fork.returncode == 1
    assert fork.stderr.endswith("ZeroDivisionError: division by zero\n")


def test_what_libraries_have_read_already_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="new process for another value of OMP_NUM_THREADS"):
        run_warm([sys.executable, "-c", ""], env=os.environ | {"OMP_NUM_THREADS": "64"})
