"""The end of trials by a signal, and what Ray Tune leaves behind in the process of a sweep."""

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from ray.tune.tune import _setup_signal_catching

from sweeps.execution import tune
from sweeps.execution.study import Study


class Trials:
    """What the end of trials reads of a narrator: one trial runs."""

    def __init__(self, folder: Path) -> None:
        self.command: Any = self
        self.study, self.stop = Study(folder), folder / "stop"
        self.trial_id, self.running = "a", {"tune's": self}
        self.say = lambda text: None


def test_a_signal_lets_trials_keep_their_last_round_before_tune_ends_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch system sends SIGTERM before it kills: docs/slurm.sbatch relies on this."""
    monkeypatch.setattr(tune, "STOP_S", 0.5)
    monkeypatch.setenv("TUNE_DISABLE_SIGINT_HANDLER", "1")
    trials: Any = Trials(tmp_path)
    before = {one: signal.getsignal(one) for one in tune.SIGNALS}
    with tune._interruptible(trials):
        is_interrupted = _setup_signal_catching()
        began = time.monotonic()
        with trials.study.lock("a"):  # its process does not end in time
            os.kill(os.getpid(), signal.SIGTERM)
            assert is_interrupted.wait(5)
        assert time.monotonic() - began >= 0.5
        assert trials.stop.is_file()
    assert not trials.stop.is_file()
    assert {one: signal.getsignal(one) for one in tune.SIGNALS} == before
