"""The driver of a federation as a Ray actor."""

import contextlib
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipeline.cluster.results import RESUME, result_of
from pipeline.cluster.watch import TICK_S, end_actor
from pipeline.federation.driver import Driver
from pipeline.federation.pool import ClientPool
from pipeline.federation.rounds import RoundSettings, RoundStats
from pipeline.runs.server_state import write_state
from spire_core.errors import ClusterError
from spire_core.federated.server import ServerState

ANSWERS_S = 1.0  # the longest that work in the background waits for the clients' results
INTERRUPT_S = 4.0  # for the driver's answer to an interrupt
PULSE_TICKS = 30  # between two questions whether the driver answers, and until its answer


@ray.remote(concurrency_groups={"beside": 2})  # type: ignore[call-overload]
class DriverActor(Driver):
    """A driver whose process starts before there is a pool to drive."""

    def __init__(self) -> None:
        self.has_answers = threading.Event()  # the round's clients have nothing to do

    def begin(self, pool: ClientPool, state: ServerState, settings: RoundSettings) -> None:
        super().__init__(pool, state, settings, on_gathered=self.has_answers.set)

    def write_state(self, path: Path) -> int:
        """Write the server's state here: to hand it to another process would take longer."""
        self.has_answers.clear()
        return write_state(path, self.state)

    @ray.method(concurrency_group="beside")
    def last_beside(self) -> tuple[ServerState, RoundStats | None]:
        """Do as `last` in the middle of a round, whose clients may hang."""
        return self.last()

    @ray.method(concurrency_group="beside")
    def answer(self) -> None:
        """Show that this process does not stand still."""

    @ray.method(concurrency_group="beside")
    def wait_no_longer(self) -> None:
        self.has_answers.set()

    @ray.method(concurrency_group="beside")
    def wait_for_answers(self, limit_s: float) -> None:
        """Return when the clients of the round after `write_state` have answered, or in time."""
        self.has_answers.wait(limit_s)


class Pulse:
    """Asks an actor, in a long wait, whether it answers; ClusterError if it does not."""

    def __init__(self, actor: Any) -> None:
        self.actor, self.is_silent = actor, False
        self._asked: Any = None  # the reference to an answer

    def beat(self, tick: int) -> None:
        """Take notice of the ticks of a wait; ask after every `PULSE_TICKS`."""
        if self._asked is not None and ray.wait([self._asked], timeout=0)[0]:
            self._asked = None  # also if the actor is lost: the wait itself raises that
        if tick and tick % PULSE_TICKS == 0:
            self.is_silent = self.is_silent or self._asked is not None
            self._asked = self._asked or self.actor.answer.remote()
        if self.is_silent:
            raise ClusterError(
                f"expected the driver's process to answer in {PULSE_TICKS * TICK_S:g} s, got a "
                f"process that stands still: {RESUME}"
            )


class RemoteDriver:
    """A `Driver` in an actor of its own, with the same methods once it has begun."""

    def __init__(self) -> None:
        """Start the process, which takes seconds, beside those of the clients.

        It is on this node, where its memory is reserved (`actor_pool`) and the run's folder is:
        Ray places an actor that asks for nothing on any node.
        """
        actor_class: Any = DriverActor
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self.actor: Any = actor_class.options(num_cpus=0, scheduling_strategy=here).remote()
        self._is_silent = False

    def begin(
        self, pool: ClientPool, state: ServerState, settings: RoundSettings
    ) -> "RemoteDriver":
        """Take the arguments of a `Driver`."""
        self._answer(self.actor.begin.remote(pool, state, settings), "the driver to begin")
        return self

    def run_round(self, kept_rounds: tuple[int, ...] = ()) -> RoundStats:
        return self._answer(self.actor.run_round.remote(kept_rounds), "the clients of a round")

    def model_weights(self) -> np.ndarray:
        return self._answer(self.actor.model_weights.remote(), "the driver's weights")

    def save_state(self, path: Path) -> Callable[[], int]:
        """Begin to write the state; the next round begins afterwards.

        The returned function waits for the end of the writing. It then waits, at most `ANSWERS_S`,
        until the next round's clients are done: while the driver averages their updates, other
        cores are free.
        """
        ref = self.actor.write_state.remote(path)

        def written() -> int:
            done = self._answer(ref, "the driver to write its state")
            with contextlib.suppress(ClusterError):  # a lost driver's last state is in the file
                self._answer(self.actor.wait_for_answers.remote(ANSWERS_S), "the driver")
            return done

        return written

    def flush(self) -> None:
        self.actor.wait_no_longer.remote()

    def last(self) -> tuple[ServerState, RoundStats | None]:
        """Do as `Driver.last`; ClusterError if the driver does not answer in `INTERRUPT_S`."""
        try:
            return result_of(self.actor.last_beside.remote(), INTERRUPT_S)
        except ClusterError as error:
            self._is_silent = True  # for waits in other threads
            raise ClusterError(
                f"expected the driver's process to answer an interrupt in {INTERRUPT_S:g} s, got "
                f"none: {RESUME}"
            ) from error

    def _answer(self, ref: Any, subject: str) -> Any:
        """Return the driver's result. ClusterError when its process stands still or is lost."""
        pulse = Pulse(self.actor)

        def beat(tick: int) -> None:
            pulse.is_silent = pulse.is_silent or self._is_silent
            pulse.beat(tick)

        return result_of(ref, subject=subject, beat=beat)

    def close(self) -> None:
        end_actor(self.actor)
