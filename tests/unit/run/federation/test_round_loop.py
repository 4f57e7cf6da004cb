"""The round loop calls its listeners in the order of their list, and at every end."""

from typing import Any

import numpy as np
import pytest

from pipeline.federation.driver import Driver
from pipeline.federation.round_loop import RoundListener, run_rounds
from pipeline.federation.rounds import RoundStats
from spire_core.errors import ClusterError
from spire_core.federated.server import ServerState


class Rounds:
    """A driver that raises an error in some round, or right after it."""

    def __init__(self, error: BaseException | None = None, in_round: int = -1) -> None:
        self.error, self.in_round = error, in_round
        self.done, self.kept = 3, list[tuple[int, ...]]()

    def run_round(self, kept_rounds: tuple[int, ...] = ()) -> RoundStats:
        if self.done == self.in_round and self.error is not None:
            raise self.error
        self.kept.append(kept_rounds)
        self.done += 1
        return stats(self.done - 1)

    def last(self) -> tuple[ServerState, RoundStats | None]:
        weights = np.zeros(1, np.float32)
        return ServerState(self.done, weights, weights), stats(self.done - 1)


def stats(round_idx: int) -> RoundStats:
    return RoundStats(round_idx, 0.5, 0, 0, 1, 0, 0.2, 0.1, 0.0, 0.0)


class Noting(RoundListener):
    """Notes its calls."""

    def __init__(self, name: str, calls: list[Any]) -> None:
        self.name, self.calls = name, calls

    def begin_rounds(self, rounds: range) -> None:
        self.calls.append((self.name, "begin", rounds))

    def between_rounds(self, done: int, driver: Driver) -> None:
        self.calls.append((self.name, "between", done))

    def after_round(self, stats: RoundStats, driver: Driver) -> None:
        self.calls.append((self.name, "after", stats.round_idx))

    def interrupted(self, state: ServerState, stats: RoundStats | None) -> None:
        assert stats is not None
        self.calls.append((self.name, "interrupted", state.round_idx, stats.round_idx))

    def end_rounds(self, error: BaseException | None) -> None:
        self.calls.append((self.name, "end", error))


def test_listeners_are_called_in_order_from_before_the_first_round_to_after_the_last() -> None:
    calls, driver = list[Any](), Rounds()
    given: Any = driver
    run_rounds(given, range(3, 5), [Noting("a", calls), Noting("b", calls)], lambda: (driver.done,))
    steps = [("begin", range(3, 5)), ("between", 3), ("after", 3), ("between", 4), ("after", 4)]
    steps += [("between", 5), ("end", None)]
    assert calls == [(name, *step) for step in steps for name in ("a", "b")]
    assert driver.kept == [(3,), (4,)]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(143)])
def test_an_interrupt_reaches_all_listeners_before_any_of_them_ends(error: BaseException) -> None:
    calls: list[Any] = []
    driver: Any = Rounds(error, in_round=4)
    with pytest.raises(type(error)):
        run_rounds(driver, range(3, 6), [Noting("a", calls), Noting("b", calls)], tuple)
    ends = [("interrupted", 4, 3), ("end", error)]
    assert calls[-4:] == [(name, *end) for end in ends for name in ("a", "b")]


def test_an_interrupt_ends_though_the_driver_does_not_answer(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Silent(Rounds):
        def last(self) -> tuple[ServerState, RoundStats | None]:
            raise ClusterError("expected an answer, got none")

    calls, error = list[Any](), KeyboardInterrupt()
    driver: Any = Silent(error, in_round=4)
    with pytest.raises(KeyboardInterrupt):
        run_rounds(driver, range(3, 6), [Noting("a", calls)], tuple)
    assert calls[-1] == ("a", "end", error)
    assert not any("interrupted" in call for call in calls)
    assert "the last round is not all kept: expected an answer, got none" in caplog.text


def test_an_error_in_a_round_is_what_every_end_gets() -> None:
    calls, error = list[Any](), ValueError("wrong")
    driver: Any = Rounds(error, in_round=3)
    with pytest.raises(ValueError, match="wrong"):
        run_rounds(driver, range(3, 6), [Noting("a", calls), Noting("b", calls)], tuple)
    assert calls[-2:] == [("a", "end", error), ("b", "end", error)]
    assert not any("interrupted" in call for call in calls)
