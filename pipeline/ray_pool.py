"""The client pool and the driver as Ray actors; the only file of the pipeline that imports Ray."""

import contextlib
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import ray
from ray.exceptions import RayActorError, RayError, RayTaskError

from pipeline.driver import Driver, RoundStats
from pipeline.messages import WorkerSetup
from pipeline.pool import ClientPool, Unit, assign, run_chunk
from pipeline.resources import ActorPlan
from pipeline.worker import ClientWorker
from spire_core.errors import ClusterError
from spire_core.server import ServerState

logger = logging.getLogger(__name__)
WAIT_NOTICE_S = 30.0
TOKEN_NOTICES = "ray._private.authentication.authentication_token_setup"


@contextlib.contextmanager
def cluster(num_cpus: int | None = None) -> Iterator[Mapping[str, float]]:
    """Yield the resources of a Ray cluster.

    It is the one around this process, the one at RAY_ADDRESS, or a new local one. A local cluster
    that was started here is shut down at the end.
    """
    if ray.is_initialized():
        yield ray.cluster_resources()
        return
    address = os.environ.get("RAY_ADDRESS")
    os.environ.setdefault("RAY_worker_niceness", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    local = {} if address else {"include_dashboard": False, "num_cpus": num_cpus}
    logging.getLogger(TOKEN_NOTICES).setLevel(logging.ERROR)
    try:
        ray.init(
            address=address or "local",
            log_to_driver=True,
            logging_level=logging.WARNING,
            configure_logging=False,
            **local,
        )
    except (RayError, RuntimeError, OSError, ValueError) as error:
        ray.shutdown()
        raise ClusterError(
            f"expected a Ray cluster at {address or 'this machine'}, got {type(error).__name__} "
            f"({str(error).splitlines()[0]}): check RAY_ADDRESS and RAY_AUTH_MODE, or start again"
        ) from error
    try:
        yield ray.cluster_resources()
    finally:
        ray.shutdown()


def cluster_nodes() -> list[Mapping[str, float]]:
    """Return the resources of each living node of the cluster."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def is_in_actor() -> bool:
    """Return whether this process is a Ray actor itself, such as a trial of a sweep."""
    return ray.is_initialized() and ray.get_runtime_context().get_actor_id() is not None


@ray.remote
class ClientActor:
    """One long-lived process that simulates clients on its share of the machine."""

    def __init__(self, setup: WorkerSetup, images: np.ndarray) -> None:
        device = "cuda" if ray.get_gpu_ids() else "cpu"
        self.worker = ClientWorker(setup, images, device)

    def run(
        self, task: str, units: Sequence[Unit], extra: Sequence[tuple], *args: Any
    ) -> list[Any]:
        return run_chunk(self.worker, task, units, args, extra)

    def ready(self) -> bool:
        """Return whether this node sees the folder of the run, which clients' states go to."""
        return self.worker.setup.folder.is_dir()


class RayClientPool(ClientPool):
    """A fixed set of client actors. Handles travel with the pool, so a driver actor can use it."""

    def __init__(self, actors: Sequence[Any]) -> None:
        self.actors = list(actors)

    @classmethod
    def start(cls, setup: WorkerSetup, images: np.ndarray, plan: ActorPlan) -> "RayClientPool":
        """Start the actors and wait until all of them run; says what it waits for every 30 s."""
        shared, images_ref = ray.put(setup), ray.put(images)
        options = {"num_cpus": plan.num_cpus, "num_gpus": plan.num_gpus, "max_concurrency": 1}
        actor_class: Any = ClientActor  # made by `ray.remote`, which type checkers cannot follow
        start_one = actor_class.options(**options).remote
        actors = [start_one(shared, images_ref) for _ in range(plan.num_actors)]
        pool = cls(actors)
        try:
            pool._wait_until_ready(plan, setup.folder)
        except BaseException:
            pool.close()
            raise
        return pool

    def _wait_until_ready(self, plan: ActorPlan, folder: Path) -> None:
        pending = [actor.ready.remote() for actor in self.actors]
        while pending:
            done, pending = ray.wait(pending, num_returns=len(pending), timeout=WAIT_NOTICE_S)
            if not all(_gather(done)):
                raise ClusterError(
                    f"expected the run's folder {folder} on every node, got a node without it: "
                    "name a folder that all nodes share with tracking.root=FOLDER or SPIRE_ROOT"
                )
            if pending:
                free = {k: v for k, v in ray.available_resources().items() if k in ("CPU", "GPU")}
                logger.warning("waiting for %s; free now: %s", plan.describe(), free)

    @property
    def num_workers(self) -> int:
        return len(self.actors)

    def share(self, value: Any) -> Any:
        return ray.put(value)

    def run(
        self,
        task: str,
        units: Sequence[Unit],
        *args: Any,
        per_unit: Sequence[tuple] | None = None,
        costs: Sequence[float] | None = None,
    ) -> list[Any]:
        extra = per_unit or [()] * len(units)
        positions = assign(costs or [1.0] * len(units), len(self.actors))
        busy = [(actor, at) for actor, at in zip(self.actors, positions, strict=True) if at]
        refs = [
            actor.run.remote(task, [units[i] for i in at], [extra[i] for i in at], *args)
            for actor, at in busy
        ]
        results: list[Any] = [None] * len(units)
        for (_, at), chunk in zip(busy, _gather(refs), strict=True):
            for i, result in zip(at, chunk, strict=True):
                results[i] = result
        return results

    def close(self) -> None:
        for actor in self.actors:
            ray.kill(actor)


class RemoteDriver:
    """A `Driver` in an actor of its own, with the same methods."""

    def __init__(self, *args: Any) -> None:
        remote: Any = ray.remote(Driver)
        self.actor: Any = remote.options(num_cpus=0).remote(*args)

    def run_round(self, kept_rounds: tuple[int, ...] = ()) -> RoundStats:
        return _gather([self.actor.run_round.remote(kept_rounds)])[0]

    def model_weights(self) -> np.ndarray:
        return _gather([self.actor.model_weights.remote()])[0]

    def server_state(self) -> ServerState:
        return _gather([self.actor.server_state.remote()])[0]

    def close(self) -> None:
        ray.kill(self.actor)


def _gather(refs: Sequence[Any]) -> list[Any]:
    """Return the values of all references; an error comes out as what it was when raised."""
    try:
        return ray.get(list(refs))
    except RayTaskError as error:
        raise error.cause from error
    except RayActorError as error:
        raise ClusterError(
            "expected every actor to stay alive, got the loss of one "
            f"({str(error).splitlines()[0]}): "
            "look at its log under the Ray session folder and start the run again"
        ) from error
