"""Checkpoints beside the rounds: one on its way is kept, bounded, and its loss is told of."""

import contextlib
import threading
from collections.abc import Callable, Iterator
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
from spire_core.errors import ClusterError, RunError
from spire_core.federated.server import ServerState

NO_ROOM = "expected room for a checkpoint, got a full disk"


def state_after(done: int) -> ServerState:
    weights = np.full(5, done, dtype=np.float32)
    return ServerState(done, weights, weights)


class FakeDriver:
    """Writes its state at once, and answers when it may, or with the error of a round."""

    def __init__(self, errors: dict[int, Exception] | None = None) -> None:
        self.errors, self.num_rounds_done = errors or {}, 0
        self.may_answer = threading.Event()
        self.may_answer.set()

    def run_round(self, kept: tuple[int, ...]) -> Any:
        self.num_rounds_done += 1
        return SimpleNamespace(round_idx=self.num_rounds_done - 1)

    def last(self) -> tuple[ServerState, None]:
        return state_after(self.num_rounds_done), None

    def save_state(self, path: Path) -> Callable[[], int]:
        num_rounds_done = int(path.parent.name.removeprefix(".").removesuffix(".part"))
        write_state(path, state_after(num_rounds_done))

        def written() -> int:
            assert self.may_answer.wait(60)
            if num_rounds_done in self.errors:
                raise self.errors[num_rounds_done]
            return num_rounds_done

        return written


def checkpointer(run_dir: Path, every: int = 1) -> Checkpointer:
    words = [f"tracking.checkpoint_every={every}", "federation.num_rounds=9"]
    return Checkpointer(run_dir, load_config("smoke", words))


def after(taker: Checkpointer, driver: Any, done: int) -> None:
    stats: Any = SimpleNamespace(round_idx=done - 1)
    taker.after_round(stats, driver)


@contextlib.contextmanager
def ending(taker: Checkpointer) -> Iterator[None]:
    """Rounds end with the block."""
    with contextlib.ExitStack() as stack:
        stack.push(lambda _, error, __: taker.end_rounds(error))
        yield


def test_a_checkpoint_on_its_way_counts_as_kept_and_the_next_waits_for_it(tmp_path: Path) -> None:
    driver: Any = FakeDriver()
    taker = checkpointer(tmp_path)
    with ending(taker):
        driver.may_answer.clear()
        after(taker, driver, 1)
        assert taker.kept_rounds() == (1,)  # so clients keep their states of it
        assert kept_rounds(tmp_path) == ()
        second = threading.Thread(target=after, args=(taker, driver, 2))
        second.start()
        second.join(0.2)
        assert second.is_alive()
        driver.may_answer.set()
        second.join(60)
        after(taker, driver, 2)  # one for each round
        after(taker, driver, 3)
    assert kept_rounds(tmp_path) == (2, 3)
    assert [p.name for p in (tmp_path / "checkpoints").glob(".*")] == []


class SavedFirst(RoundListener):
    """Waits before each round until the pending checkpoint is saved or lost; may end the rounds."""

    def __init__(self, taker: Checkpointer, interrupt_after: int | None = None) -> None:
        self.taker, self.interrupt_after = taker, interrupt_after

    def between_rounds(self, done: int, driver: Any) -> None:
        if self.taker._pending is not None:
            with contextlib.suppress(RunError):
                self.taker._pending[1].result(60)
        if done == self.interrupt_after:
            raise KeyboardInterrupt


def run(driver: Any, taker: Checkpointer, interrupt_after: int | None = None) -> None:
    listeners = [SavedFirst(taker, interrupt_after), taker]
    run_rounds(driver, range(9), listeners, taker.kept_rounds)


def test_the_round_after_a_failed_checkpoint_is_the_last(tmp_path: Path) -> None:
    driver = FakeDriver({4: RunError(NO_ROOM)})
    with pytest.raises(RunError, match=NO_ROOM):
        run(driver, checkpointer(tmp_path, every=4))
    assert driver.num_rounds_done == 5
    assert kept_rounds(tmp_path) == ()
    assert list((tmp_path / "checkpoints").iterdir()) == []


def test_an_interrupt_is_kept_though_an_earlier_checkpoint_has_failed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    driver = FakeDriver({4: RunError(NO_ROOM)})
    with pytest.raises(KeyboardInterrupt):
        run(driver, checkpointer(tmp_path, every=4), interrupt_after=4)
    assert kept_rounds(tmp_path) == (4,)  # now there is room
    assert caplog.messages == [NO_ROOM]


def test_a_lost_checkpoint_is_an_error_of_the_end_or_told_beside_the_one_that_caused_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    taker = checkpointer(tmp_path)
    after(taker, FakeDriver({1: RunError(NO_ROOM)}), 1)
    with pytest.raises(RunError, match=NO_ROOM):
        taker.end_rounds(None)
    assert caplog.messages == []
    after(taker, FakeDriver({1: ClusterError("lost")}), 1)
    taker.end_rounds(KeyboardInterrupt())
    assert caplog.messages == ["lost"]
