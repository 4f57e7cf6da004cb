"""The driver of a federation as a Ray actor."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipeline.cluster.results import result_of
from pipeline.federation.driver import Driver
from pipeline.federation.pool import ClientPool
from pipeline.federation.rounds import RoundSettings, RoundStats
from pipeline.runs.server_state import write_state
from spire_core.federated.server import ServerState

INTERRUPT_S = 4.0  # for the driver's answer to an interrupt


@ray.remote(concurrency_groups={"beside": 1})  # type: ignore[call-overload]
class DriverActor(Driver):
    """A driver whose process starts before there is a pool to drive."""

    def __init__(self) -> None:
        pass

    def begin(self, pool: ClientPool, state: ServerState, settings: RoundSettings) -> None:
        super().__init__(pool, state, settings)

    def write_state(self, path: Path) -> int:
        """Write the server's state here: to hand it to another process would take longer."""
        return write_state(path, self.state)

    @ray.method(concurrency_group="beside")
    def last_beside(self) -> tuple[ServerState, RoundStats | None]:
        """Do as `last` in the middle of a round, whose clients may hang."""
        return self.last()


class RemoteDriver(Driver):
    """A `Driver` in an actor of its own, with the same methods once it has begun."""

    def __init__(self) -> None:
        """Start the process, which takes seconds, beside those of the clients.

        It is on this node, where its memory is reserved (`actor_pool`) and the run's folder is:
        Ray places an actor that asks for nothing on any node.
        """
        actor_class: Any = DriverActor
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self.actor: Any = actor_class.options(num_cpus=0, scheduling_strategy=here).remote()

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
        """Begin to write the state; the next round begins afterwards."""
        ref = self.actor.write_state.remote(path)
        return lambda: result_of(ref)

    def last(self) -> tuple[ServerState, RoundStats | None]:
        """Do as `Driver.last`; ClusterError if the driver does not answer in `INTERRUPT_S`."""
        return result_of(self.actor.last_beside.remote(), INTERRUPT_S)

    def close(self) -> None:
        ray.kill(self.actor)
