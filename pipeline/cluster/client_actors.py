"""The client pool as Ray actors."""

import logging
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import ray
from ray.exceptions import ActorUnavailableError, GetTimeoutError, RayError, RayTaskError

from pipeline.clients.memory import Footprint, footprint, kept_positions, resident_bytes
from pipeline.cluster.actor_plan import ActorPlan
from pipeline.cluster.session import LESS_MEMORY, answer_of, free_resources, lost, raised
from pipeline.config.resources import ResourcesConfig
from pipeline.federation.messages import WorkerSetup
from pipeline.federation.pool import ClientFailure, ClientPool, Unit, run_chunk
from pipeline.federation.scheduling import Paces, assign
from spire_core.errors import ClusterError

if TYPE_CHECKING:
    from pipeline.clients.worker import ClientWorker

logger = logging.getLogger(__name__)
WAIT_NOTICE_S = 30.0
REVIVAL_S = 120.0  # for an actor to come back, perhaps on another node


def choose_device(config: ResourcesConfig, has_gpu: bool) -> str:
    """Return where an actor computes: on its share of a GPU, if it has one.

    ClusterError if torch cannot use it: on the CPU a run would take many times as long, unnoticed.
    """
    if not has_gpu or config.device == "cpu":
        return "cpu"
    import torch

    if not torch.cuda.is_available():
        raise ClusterError(
            "expected a torch that can use the GPU that Ray gave to a client actor, got "
            f"torch {torch.__version__} without one: install torch for CUDA on every node, or set "
            "resources.num_gpus=0 or resources.device=cpu"
        )
    return "cuda"


@ray.remote
class ClientActor:
    """One long-lived process that simulates clients on its share of the machine."""

    worker: "ClientWorker | None" = None  # of a process that came back, until it begins

    def run(
        self, task: str, units: Sequence[Unit], extra: Sequence[tuple], *args: Any
    ) -> tuple[list[Any], float]:
        """Return what `run_chunk` returns, and how many seconds it took."""
        began = time.monotonic()
        if self.worker is None:
            return _lost_together(units, "its actor was lost"), 0.0
        return run_chunk(self.worker, task, units, args, extra), time.monotonic() - began

    def ask(self, method: str, *args: Any) -> Any:
        """Return what a method of the worker returns, None without a worker."""
        return None if self.worker is None else getattr(self.worker, method)(*args)

    def begin(self, setup: WorkerSetup, images: np.ndarray, rehearses: bool = False) -> Footprint:
        """Begin, also after a restart; ClusterError if this node does not see the run's folder.

        Returns the memory that there is and, if it rehearses, that a round takes. The setup does
        not come through `__init__`: an error there would lose its type, and Ray warns of restarts
        that need what lies in its object store.
        """
        if not setup.folder.is_dir():
            raise ClusterError(
                f"expected the run's folder {setup.folder} on every node, got a node without it: "
                "name a folder that all nodes share with tracking.root=FOLDER or SPIRE_ROOT"
            )
        from pipeline.clients.worker import ClientWorker

        device = choose_device(setup.config.resources, bool(ray.get_gpu_ids()))
        self.worker = ClientWorker(setup, images, device)
        before = resident_bytes()
        if rehearses:
            self.worker.rehearse()
        return footprint(ray.get_runtime_context().get_node_id(), before, self.worker.device)


class RayClientPool(ClientPool):
    """A fixed set of client actors. Handles travel with the pool, so a driver actor can use it."""

    def __init__(
        self, actors: Sequence[Any], shared: tuple[Any, Any], client_timeout_s: float | None = None
    ) -> None:
        """Take actors and references to what they begin with: the setup and all images.

        A client may take so many seconds, None for any number.
        """
        self.actors, self.shared, self.client_timeout_s = list(actors), shared, client_timeout_s
        self.paces = Paces()

    @classmethod
    def start(cls, setup: WorkerSetup, images: np.ndarray, plan: ActorPlan) -> "RayClientPool":
        """Start the actors and wait until all of them run; says what it waits for every 30 s."""
        shared = (ray.put(setup), ray.put(images))
        options = {"num_cpus": plan.num_cpus, "num_gpus": plan.num_gpus, "max_concurrency": 1}
        options["max_restarts"] = -1  # a lost one comes back under the same handle, see `_revive`
        actor_class: Any = ClientActor  # made by `ray.remote`, which type checkers cannot follow
        start_one = actor_class.options(**options).remote
        actors = [start_one() for _ in range(plan.num_actors)]
        pool = cls(actors, shared, setup.config.federation.client_timeout_s)
        try:
            found = pool._begin(plan)
            pool._keep_what_fits(found, may_shrink=setup.config.resources.num_actors == "auto")
        except BaseException:
            pool.close()
            raise
        return pool

    def _begin(self, plan: ActorPlan) -> list[Footprint]:
        """Let all actors begin, and the first of them rehearse while others still start."""
        begun = {a.begin.remote(*self.shared, i == 0): i for i, a in enumerate(self.actors)}
        found: dict[int, Footprint] = {}
        pending = list(begun)
        while pending:
            done, pending = ray.wait(pending, num_returns=len(pending), timeout=WAIT_NOTICE_S)
            found |= {begun[ref]: self._begun(begun[ref], ref) for ref in done}
            if pending:
                logger.warning("waiting for %s; free now: %s", plan.describe(), free_resources())
        return [found[position] for position in range(len(self.actors))]

    def _begun(self, position: int, ref: Any) -> Footprint:
        """Return what `begin` gave; an actor that was lost meanwhile begins again."""
        try:
            return ray.get(ref)
        except RayTaskError as error:
            raise raised(error) from error
        except RayError as error:
            logger.warning("a client actor was lost as it began (%s)", str(error).splitlines()[0])
            return self._revive(self.actors[position], rehearses=position == 0)

    def _keep_what_fits(self, found: Sequence[Footprint], may_shrink: bool) -> None:
        """End actors that their node has no memory for, as the first of them has measured it.

        ClusterError if none is left, or if the number of actors is not ours to choose.
        """
        kept = kept_positions(found, found[0].need_bytes)
        if len(kept) == len(found):
            return
        least = min(one.free_bytes for one in found)
        told = f"{found[0].need_bytes / 2**20:.0f} MiB for what a round takes, {least / 2**20:.0f}"
        if not (kept and may_shrink):
            raise ClusterError(
                f"expected memory for {len(found)} client actors, got {told} MiB free: "
                f"{LESS_MEMORY}"
            )
        logger.warning("%d of %d client actors go on: %s MiB free", len(kept), len(found), told)
        for position, actor in enumerate(self.actors):
            if position not in kept:
                ray.kill(actor)
        self.actors = [self.actors[position] for position in kept]

    @property
    def num_workers(self) -> int:
        return len(self.actors)

    def ask_first(self, method: str, *args: Any, limit_s: float | None = None) -> Any:
        try:
            return answer_of(self.actors[0].ask.remote(method, *args), limit_s)
        except ClusterError as error:
            logger.warning("%s of a client actor: %s", method, error)
            return None

    def share(self, value: Any) -> Any:
        return ray.put(value)

    def _attempt(
        self,
        task: str,
        args: tuple,
        units: list[Unit],
        extra: list[tuple],
        costs: list[float],
    ) -> list[Any]:
        positions = assign(costs, self.paces.of(task, len(self.actors)))
        busy = [(worker, at) for worker, at in enumerate(positions) if at]
        began = time.monotonic()
        refs = [
            self.actors[worker].run.remote(
                task, [units[i] for i in at], [extra[i] for i in at], *args
            )
            for worker, at in busy
        ]
        results: list[Any] = [None] * len(units)
        for (worker, at), ref in zip(busy, refs, strict=True):
            asked = [units[i] for i in at]
            chunk, busy_s = self._chunk(self.actors[worker], ref, asked, began)
            self.busy_s += busy_s
            if busy_s > 0 and not any(isinstance(result, ClientFailure) for result in chunk):
                self.paces.learn(task, worker, sum(costs[i] for i in at), busy_s)
            for i, result in zip(at, chunk, strict=True):
                results[i] = result
        for worker, at in busy:
            if any(isinstance(results[i], ClientFailure) and results[i].num_lost for i in at):
                self._revive(self.actors[worker])
                self.paces.renew(worker)
        return results

    def _chunk(
        self, actor: Any, ref: Any, units: list[Unit], began: float
    ) -> tuple[list[Any], float]:
        """Return an actor's answer and the seconds that it took.

        If it died or hangs: the loss of all its units, and no time.
        """
        limit_s = None
        if self.client_timeout_s is not None:
            num_clients = sum(1 if isinstance(unit, int) else len(unit) for unit in units)
            end = began + self.client_timeout_s * num_clients
            limit_s = max(0.0, end - time.monotonic())
        # An answer that is there in time may still have to come here from another node.
        done, _ = ray.wait([ref], timeout=limit_s, fetch_local=False)
        if not done:
            ray.kill(actor, no_restart=False)
            return _lost_together(
                units, f"no answer in {self.client_timeout_s:g} s per client"
            ), 0.0
        try:
            return ray.get(ref)
        except RayTaskError as error:
            if not isinstance(error.cause, RayError):
                raise error.cause from error
            cause = f"what it was given is lost ({str(error.cause).splitlines()[0]})"
        except RayError as error:
            cause = f"its actor was lost ({str(error).splitlines()[0]})"
        return _lost_together(units, cause), 0.0

    def _revive(self, actor: Any, rehearses: bool = False) -> Footprint:
        """Let an actor begin again after a loss; ClusterError if it cannot, or takes too long."""
        end = time.monotonic() + REVIVAL_S
        while True:
            try:
                again = actor.begin.remote(*self.shared, rehearses)
                return ray.get(again, timeout=max(0.1, end - time.monotonic()))
            except (ActorUnavailableError, GetTimeoutError) as error:
                if time.monotonic() > end:
                    raise lost(error) from error
                time.sleep(0.1)
            except RayTaskError as error:
                raise raised(error) from error
            except RayError as error:
                raise lost(error) from error

    def close(self) -> None:
        for actor in self.actors:
            ray.kill(actor)


def _lost_together(units: Sequence[Unit], cause: str) -> list[Any]:
    return [ClientFailure(unit, cause, num_lost=len(units)) for unit in units]
