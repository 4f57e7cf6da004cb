"""The driver of a federation as a Ray actor."""

import contextlib
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import ray

from pipeline.cluster.session import result_of
from pipeline.federation.driver import Driver
from pipeline.federation.pool import ClientPool
from pipeline.federation.rounds import RoundSettings, RoundStats
from pipeline.runs.server_state import write_state
from spire_core.errors import ClusterError
from spire_core.federated.server import ServerState

ANSWERS_S = 1.0  # the longest that work in the background waits for the clients' results


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
    def wait_no_longer(self) -> None:
        self.has_answers.set()

    @ray.method(concurrency_group="beside")
    def wait_for_answers(self, limit_s: float) -> None:
        """Return when the clients of the round after `write_state` have answered, or in time."""
        self.has_answers.wait(limit_s)


class RemoteDriver:
    """A `Driver` in an actor of its own, with the same methods once it has begun."""

    def __init__(self) -> None:
        """Start the process, which takes seconds, beside those of the clients."""
        actor_class: Any = DriverActor
        self.actor: Any = actor_class.options(num_cpus=0).remote()

    def begin(
        self, pool: ClientPool, state: ServerState, settings: RoundSettings
    ) -> "RemoteDriver":
        """Take the arguments of a `Driver`."""
        result_of(self.actor.begin.remote(pool, state, settings))
        return self

    def run_round(self, kept_rounds: tuple[int, ...] = ()) -> RoundStats:
        return result_of(self.actor.run_round.remote(kept_rounds))

    def model_weights(self) -> np.ndarray:
        return result_of(self.actor.model_weights.remote())

    def save_state(self, path: Path) -> Callable[[], int]:
        """Begin to write the state; the next round begins afterwards.

        The returned function waits for the end of the writing. It then waits, at most `ANSWERS_S`,
        until the next round's clients are done: while the driver averages their updates, other
        cores are free.
        """
        ref = self.actor.write_state.remote(path)

        def written() -> int:
            done = result_of(ref)
            with contextlib.suppress(ClusterError):  # a lost driver's last state is in the file
                result_of(self.actor.wait_for_answers.remote(ANSWERS_S))
            return done

        return written

    def flush(self) -> None:
        self.actor.wait_no_longer.remote()

    def last(self) -> tuple[ServerState, RoundStats | None]:
        return result_of(self.actor.last_beside.remote())

    def close(self) -> None:
        ray.kill(self.actor)
