"""The round loop, and the interface of all that happens beside the rounds.

The loop knows rounds and interrupts. Evaluation, tracking, checkpoints, profiling and progress are
listeners, so that another concern is another listener.
"""

import contextlib
import logging
from collections.abc import Callable, Sequence

from pipeline.federation.driver import Driver
from pipeline.federation.rounds import RoundStats
from spire_core.errors import SpireError
from spire_core.federated.server import ServerState

logger = logging.getLogger(__name__)


class RoundListener:
    """Reacts to the rounds of a run; every method does nothing unless it is overridden.

    Listeners are called one after the other, in the order of their list.
    """

    def begin_rounds(self, rounds: range) -> None:
        """The run computes these rounds; it does not start at 0 if it is resumed."""

    def between_rounds(self, done: int, driver: Driver) -> None:
        """No round is running and `done` are over: called before each round and after the last."""

    def after_round(self, stats: RoundStats, driver: Driver) -> None:
        """A round has ended."""

    def interrupted(self, state: ServerState, stats: RoundStats | None) -> None:
        """The run ends by an interrupt; `state` and `stats` as `Driver.last` returns them.

        Not called if the driver cannot answer.
        The last round may have ended without a call of `after_round`.
        """

    def end_rounds(self, error: BaseException | None) -> None:
        """Nothing follows: all rounds are over, or `error` ended them. Called in any case.

        An error of one listener's end is the error that the later ones get.
        """


def run_rounds(
    driver: Driver,
    rounds: range,
    listeners: Sequence[RoundListener],
    kept_rounds: Callable[[], tuple[int, ...]],
) -> None:
    """Run these rounds; `kept_rounds` returns the rounds of which clients keep their states."""
    with contextlib.ExitStack() as stack:
        for listener in reversed(listeners):  # the stack unwinds from its end
            stack.push(lambda _, error, __, one=listener: one.end_rounds(error))
        for listener in listeners:
            listener.begin_rounds(rounds)
        try:
            for done in rounds:
                for listener in listeners:
                    listener.between_rounds(done, driver)
                stats = driver.run_round(kept_rounds())
                for listener in listeners:
                    listener.after_round(stats, driver)
            for listener in listeners:
                listener.between_rounds(rounds.stop, driver)
        except (KeyboardInterrupt, SystemExit):  # there is time to keep the last round
            _keep_last(driver, listeners)
            raise


def _keep_last(driver: Driver, listeners: Sequence[RoundListener]) -> None:
    """Hand the last round to the listeners, unless the driver cannot answer or a disk is full."""
    try:
        state, last = driver.last()
        for listener in listeners:
            listener.interrupted(state, last)
    except (SpireError, OSError) as error:
        logger.warning("the last round is not all kept: %s", error)
