"""A checkpoint that fails ends the run after the next round, and keeps no later one from an end."""

import contextlib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pipeline.checkpoint.checkpointer import Checkpointer
from pipeline.checkpoint.snapshots import kept_rounds
from pipeline.config.load import load_config
from pipeline.federation.round_loop import RoundListener, run_rounds
from pipeline.runs.server_state import write_state
from spire_core.errors import RunError
from spire_core.federated.server import ServerState

NO_ROOM = "expected room for a checkpoint, got a full disk"


class FullDisk:
    """A driver whose state cannot be written after the rounds that it is told."""

    def __init__(self, *full_after: int) -> None:
        self.full_after, self.num_rounds_done = full_after, 0

    def run_round(self, kept: tuple[int, ...]) -> Any:
        self.num_rounds_done += 1
        return SimpleNamespace(round_idx=self.num_rounds_done - 1)

    def last(self) -> tuple[ServerState, None]:
        return self.state, None

    @property
    def state(self) -> ServerState:
        weights = np.full(5, self.num_rounds_done, dtype=np.float32)
        return ServerState(self.num_rounds_done, weights, weights)

    def save_state(self, path: Path) -> Callable[[], int]:
        done, state = self.num_rounds_done, self.state

        def written() -> int:
            if done in self.full_after:
                raise RunError(NO_ROOM)
            return write_state(path, state)

        return written

    def flush(self) -> None:
        pass


class Interrupt(RoundListener):
    """Ends the rounds as a signal would."""

    def __init__(self, after: int) -> None:
        self.after = after

    def between_rounds(self, done: int, driver: Any) -> None:
        if done == self.after:
            raise KeyboardInterrupt


def checkpointer(run_dir: Path, every: int) -> Checkpointer:
    words = [f"tracking.checkpoint_every={every}", "federation.num_rounds=9"]
    return Checkpointer(run_dir, load_config("smoke", words))


def run(driver: Any, taker: Checkpointer, *others: RoundListener) -> None:
    run_rounds(driver, range(9), [SavedFirst(taker), taker, *others], taker.kept_rounds)


class SavedFirst(RoundListener):
    """Waits before each round until the checkpoint thread has done its work."""

    def __init__(self, taker: Checkpointer) -> None:
        self.taker = taker

    def between_rounds(self, done: int, driver: Any) -> None:
        for saved in self.taker._pending.values():
            with contextlib.suppress(RunError):
                saved.result(60)


def test_the_round_after_a_failed_checkpoint_is_the_last(tmp_path: Path) -> None:
    driver = FullDisk(4)
    with pytest.raises(RunError, match=NO_ROOM):
        run(driver, checkpointer(tmp_path, 4))
    assert driver.num_rounds_done == 5
    assert kept_rounds(tmp_path) == ()


def test_an_interrupt_is_kept_though_an_earlier_checkpoint_has_failed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    driver = FullDisk(4)
    with pytest.raises(KeyboardInterrupt):
        run(driver, checkpointer(tmp_path, 4), Interrupt(after=4))
    assert kept_rounds(tmp_path) == (4,)  # now there is room
    assert caplog.messages == [NO_ROOM]


def test_where_rounds_have_checkpoints_has_not_changed(tmp_path: Path) -> None:
    run(FullDisk(), checkpointer(tmp_path, 4))
    assert kept_rounds(tmp_path) == (8, 9)
