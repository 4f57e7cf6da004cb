"""The driver of a federation as a Ray actor."""

import contextlib
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import ray

from pipeline.cluster.session import answer_of
from pipeline.federation.driver import Driver, Rounds, RoundStats
from pipeline.federation.pool import ClientPool
from pipeline.runs.server_state import write_state
from spire_core.errors import ClusterError
from spire_core.federated.messages import ClientUpdate, RoundPlan
from spire_core.federated.server import ServerState

ANSWERS_S = 1.0  # that what can be done beside the clients' work waits for its end


@ray.remote(concurrency_groups={"beside": 2})  # type: ignore[call-overload]
class DriverActor(Driver):
    """A driver whose process starts before there is a pool to drive."""

    def __init__(self) -> None:
        self.has_answers = threading.Event()  # of a round: its clients have nothing to do

    def begin(self, pool: ClientPool, state: ServerState, rounds: Rounds) -> None:
        super().__init__(pool, state, rounds)

    def _gather(
        self, groups: list[tuple[int, ...]], handle: Any, plan: RoundPlan
    ) -> list[ClientUpdate]:
        updates = super()._gather(groups, handle, plan)
        self.has_answers.set()
        return updates

    def write_state(self, path: Path) -> int:
        """Write what the server holds, which takes less than to hand it to another process."""
        self.has_answers.clear()
        return write_state(path, self.state)

    @ray.method(concurrency_group="beside")
    def last_beside(self) -> tuple[ServerState, RoundStats | None]:
        """Return what `last` does in the middle of a round, whose clients may hang."""
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

    def begin(self, pool: ClientPool, state: ServerState, rounds: Rounds) -> "RemoteDriver":
        """Take what a `Driver` is made with."""
        answer_of(self.actor.begin.remote(pool, state, rounds))
        return self

    def run_round(self, kept_rounds: tuple[int, ...] = ()) -> RoundStats:
        return answer_of(self.actor.run_round.remote(kept_rounds))

    def model_weights(self) -> np.ndarray:
        return answer_of(self.actor.model_weights.remote())

    def save_state(self, path: Path) -> Callable[[], int]:
        """Begin to write it; the next round begins afterwards.

        What is returned waits for that, and then, but not long, until that round's clients have
        answered: while the driver works out the mean of their updates other cores are free.
        """
        ref = self.actor.write_state.remote(path)

        def written() -> int:
            done = answer_of(ref)
            with contextlib.suppress(ClusterError):  # a lost driver's last state is in the file
                answer_of(self.actor.wait_for_answers.remote(ANSWERS_S))
            return done

        return written

    def flush(self) -> None:
        self.actor.wait_no_longer.remote()

    def last(self) -> tuple[ServerState, RoundStats | None]:
        return answer_of(self.actor.last_beside.remote())

    def close(self) -> None:
        ray.kill(self.actor)
