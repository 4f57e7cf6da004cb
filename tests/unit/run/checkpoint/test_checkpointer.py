"""Checkpoints beside the rounds: what is on its way is kept, bounded and told of."""

import contextlib
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.checkpoint.checkpointer import ENDING_UPLOAD_S, LAST_UPLOAD_S, Checkpointer
from pipeline.checkpoint.snapshots import kept_rounds
from pipeline.config.load import load_config
from pipeline.federation.round_loop import ending
from pipeline.runs.server_state import write_state
from spire_core.errors import ClusterError, RunError
from spire_core.federated.server import ServerState


class SlowDriver:
    """Writes its state at once and answers when it may."""

    def __init__(self) -> None:
        self.may_answer = {done: threading.Event() for done in (1, 2, 3)}
        self.fault: Exception | None = None

    def save_state(self, path: Path) -> Callable[[], int]:
        num_rounds_done = int(path.parent.name.removeprefix(".").removesuffix(".part"))
        weights = np.full(5, num_rounds_done, dtype=np.float32)
        write_state(path, ServerState(num_rounds_done, weights, weights))

        def written() -> int:
            assert self.may_answer[num_rounds_done].wait(60)
            if self.fault is not None:
                raise self.fault
            return num_rounds_done

        return written

    def answer_all(self) -> None:
        for may_answer in self.may_answer.values():
            may_answer.set()


def checkpointer(run_dir: Path, mirror: Any = None) -> Checkpointer:
    return Checkpointer(run_dir, load_config("smoke", ["tracking.keep_checkpoints=2"]), mirror)


def test_what_is_on_its_way_counts_as_kept_and_is_whole_in_the_end(tmp_path: Path) -> None:
    driver: Any = SlowDriver()
    taker = checkpointer(tmp_path)
    with ending([taker]):
        for done in (1, 1, 2):  # one for each round
            taker.take(driver, done)
        assert taker.kept_rounds() == (1, 2)  # so clients keep their states of both
        assert kept_rounds(tmp_path) == ()
        driver.answer_all()
    assert kept_rounds(tmp_path) == (1, 2)
    assert [p.name for p in (tmp_path / "checkpoints").glob(".*")] == []


def test_a_third_waits_for_the_first(tmp_path: Path) -> None:
    driver: Any = SlowDriver()
    taker = checkpointer(tmp_path)
    with ending([taker]):
        taker.take(driver, 1)
        taker.take(driver, 2)
        third = threading.Thread(target=taker.take, args=(driver, 3))
        third.start()
        third.join(0.2)
        assert third.is_alive()
        driver.may_answer[1].set()
        third.join(60)
        assert not third.is_alive()
        assert kept_rounds(tmp_path) == (1,)  # the second has not been answered
        driver.answer_all()
    assert kept_rounds(tmp_path) == (2, 3)


def take(taker: Checkpointer, driver: Any, *rounds: int, error: BaseException | None) -> None:
    with ending([taker]):
        for done in rounds:
            taker.take(driver, done)
            driver.answer_all()
        if error is not None:
            raise error


@pytest.mark.parametrize("rounds", [(1,), (1, 2), (1, 2, 3)])
def test_what_became_of_one_is_raised_later(rounds: tuple[int, ...], tmp_path: Path) -> None:
    driver = SlowDriver()
    driver.fault = RunError("expected room, got none")
    with pytest.raises(RunError, match="expected room"):
        take(checkpointer(tmp_path), driver, *rounds, error=None)
    assert list((tmp_path / "checkpoints").iterdir()) == []


def test_what_ended_the_run_matters_more_than_a_lost_checkpoint(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    driver = SlowDriver()
    driver.fault = ClusterError("the driver is lost")
    with pytest.raises(KeyboardInterrupt):
        take(checkpointer(tmp_path), driver, 1, 2, error=KeyboardInterrupt())
    assert caplog.messages == ["the driver is lost"] * 2  # each is named


class ClosedMirror:
    """Notes for how long an upload is waited for."""

    pinned_rounds = ()

    def __init__(self) -> None:
        self.limits_s: list[float] = []

    def begin(self, num_rounds_done: int) -> None:
        pass

    def close(self, limit_s: float) -> None:
        self.limits_s.append(limit_s)


def test_a_run_that_ends_waits_shortly_for_an_upload(tmp_path: Path) -> None:
    def waited_s(name: str, fault: Exception | None, error: BaseException | None) -> list[float]:
        mirror: Any = ClosedMirror()
        taker, driver = checkpointer(tmp_path / name, mirror), SlowDriver()
        driver.fault = fault
        with contextlib.suppress(KeyboardInterrupt, RunError):
            take(taker, driver, 1, error=error)
        return mirror.limits_s

    assert waited_s("rounds over", None, None) == [LAST_UPLOAD_S]
    assert waited_s("interrupt", None, KeyboardInterrupt()) == [ENDING_UPLOAD_S]
    assert waited_s("no room", RunError("expected room, got none"), None) == [ENDING_UPLOAD_S]
    assert ENDING_UPLOAD_S <= 10 < LAST_UPLOAD_S
