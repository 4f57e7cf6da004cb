"""The client pool as Ray actors."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import ray
from ray.exceptions import GetTimeoutError, RayError, RayTaskError

from pipeline.clients.memory import (
    NO_ROUNDS,
    Footprint,
    RoundMemory,
    kept_positions,
    sizes_text,
)
from pipeline.cluster.actor_plan import ActorPlan
from pipeline.cluster.client_actor import ClientActor
from pipeline.cluster.losses import REVIVAL_S, LostActorError, lost_task, revive
from pipeline.cluster.results import (
    Patience,
    get,
    loss_cause,
    result_of,
    task_error,
    wait,
)
from pipeline.cluster.session import free_resources
from pipeline.cluster.watch import check_alive, end_actor
from pipeline.federation.machine_faults import LESS_MEMORY
from pipeline.federation.messages import WorkerSetup
from pipeline.federation.pool import ClientPool
from pipeline.federation.scheduling import WorkerSpeeds, balance
from pipeline.federation.work import SEE_LOG, ClientFailure, Unit, Work, lost_together
from spire_core.errors import ClusterError, first_line

logger = logging.getLogger(__name__)
WAIT_NOTICE_S = 30.0
LEAST_LIMIT_S = 30.0  # for what is not a client's work


class RayClientPool(ClientPool):
    """A fixed set of client actors. Handles travel with the pool, so a driver actor can use it."""

    def __init__(
        self,
        actors: Sequence[Any],
        shared: tuple[Any, Any],
        client_timeout_s: float | None = None,
        may_shrink: bool = False,
    ) -> None:
        """Take actors and references to the arguments of `begin`: the setup and all images.

        `client_timeout_s`: the seconds that a client may take, None for any number. `may_shrink`:
        whether the pool goes on without actors that have no room.
        """
        self.actors, self.shared, self.client_timeout_s = list(actors), shared, client_timeout_s
        self.may_shrink = may_shrink
        self.speeds = WorkerSpeeds()

    @classmethod
    def start(
        cls,
        setup: WorkerSetup,
        images: np.ndarray,
        plan: ActorPlan,
        round_memory: RoundMemory = NO_ROUNDS,
    ) -> "RayClientPool":
        """Start the actors and wait until all of them run; a log line every 30 s says so.

        `round_memory`: the bytes that a round needs beside the measured step of a client.
        """
        shared = (ray.put(setup), ray.put(images))
        options = {"num_cpus": plan.num_cpus, "num_gpus": plan.num_gpus, "max_concurrency": 1}
        options["max_restarts"] = -1  # a lost one comes back under the same handle, see `revive`
        actor_class: Any = ClientActor  # made by `ray.remote`, which type checkers cannot follow
        start_one = actor_class.options(**options).remote
        actors = [start_one() for _ in range(plan.num_actors)]
        may_shrink = setup.config.resources.num_actors == "auto"
        pool = cls(actors, shared, setup.config.federation.client_timeout_s, may_shrink)
        try:
            pool._keep_fitting(pool._begin(plan), round_memory)
        except BaseException:
            pool.close()
            raise
        return pool

    def _begin(self, plan: ActorPlan) -> list[Footprint]:
        """Let all actors begin, and the first of them rehearse while others still start."""
        begun = {a.begin.remote(*self.shared, i == 0): i for i, a in enumerate(self.actors)}
        footprints: dict[int, Footprint] = {}
        pending = list(begun)
        while pending:
            done, pending = wait(pending, WAIT_NOTICE_S)
            footprints |= {begun[ref]: self._footprint(begun[ref], ref) for ref in done}
            if pending:
                logger.warning("waiting for %s; free now: %s", plan.describe(), free_resources())
        return [footprints[position] for position in range(len(self.actors))]

    def _footprint(self, position: int, ref: Any) -> Footprint:
        """Return the result of `begin`; an actor that was lost meanwhile begins again."""
        try:
            return get(ref)
        except RayTaskError as error:
            raise task_error(error) from error
        except RayError as error:
            logger.warning("a client actor was lost as it began (%s)", first_line(error))
            return revive(self.actors[position], self.shared, rehearses=position == 0)

    def _keep_fitting(self, footprints: Sequence[Footprint], round_memory: RoundMemory) -> None:
        """End actors that their node has no memory for; the first actor has measured a step.

        ClusterError if none is left, or if the user has set the number of actors.
        """
        total = len(footprints)
        here = ray.get_runtime_context().get_node_id()
        kept = kept_positions(footprints, round_memory, here)
        if len(kept) == total:
            return
        sizes = sizes_text(footprints, round_memory.actor_bytes)
        if not (kept and self.may_shrink):
            raise ClusterError(
                f"expected memory for {total} client actors, got {sizes}: {LESS_MEMORY}"
            )
        logger.warning("%d of %d client actors go on: %s", len(kept), total, sizes)
        for position, actor in enumerate(self.actors):
            if position not in kept:
                end_actor(actor)
        self.actors = [self.actors[position] for position in kept]

    @property
    def num_workers(self) -> int:
        return len(self.actors)

    def ask_first(self, method: str, *args: Any, limit_s: float | None = None) -> Any:
        try:
            answer = result_of(self.actors[0].ask.remote(method, *args), limit_s)
            return None if answer is None else answer[0]
        except ClusterError as error:
            logger.warning("%s of a client actor: %s", method, error)
            return None

    def each(self, method: str, *args: Any) -> list[Any]:
        check_alive()
        refs = [actor.ask.remote(method, *args) for actor in self.actors]
        pairs = list(zip(self.actors, refs, strict=True))
        answers = [self._own(actor, ref) for actor, ref in pairs]
        self._revive([self.actors[i] for i, answer in enumerate(answers) if answer is None])
        return [None if answer is None else answer[0] for answer in answers]

    def _own(self, actor: Any, ref: Any) -> tuple[Any] | None:
        """Return an actor's answer as a tuple; None from an actor that is lost or hangs."""
        limit_s = self.client_timeout_s and max(self.client_timeout_s, LEAST_LIMIT_S)
        try:
            return get(ref, limit_s)
        except RayTaskError as error:
            self.last_loss = lost_task(actor, error, "an actor whose answer is lost")
        except GetTimeoutError:
            self.last_loss = f"an actor without an answer in {limit_s} s", SEE_LOG
            ray.kill(actor, no_restart=False)
        except RayError as error:
            logger.warning("a client actor was lost (%s)", first_line(error))
            self.last_loss = loss_cause(error, "a lost actor")
        return None

    def share(self, value: Any) -> Any:
        check_alive()  # of a dead node, Ray would end this process
        return ray.put(value)

    def attempt(self, work: Work) -> list[Any]:
        check_alive()
        shares = self._shares(work)
        busy = {worker: work.part(at) for worker, at in enumerate(shares) if at}
        patience = Patience(self.client_timeout_s)
        refs = {
            worker: self.actors[worker].run.remote(replace(part, args=()), *part.args)
            for worker, part in busy.items()
        }
        results: dict[int, Any] = {}
        for worker, part in busy.items():
            chunk, busy_s = self._chunk(self.actors[worker], refs[worker], part.units, patience)
            self.busy_s += busy_s
            if busy_s > 0 and not any(isinstance(result, ClientFailure) for result in chunk):
                self.speeds.learn(work.task, worker, sum(part.costs), busy_s)
            results |= zip(shares[worker], chunk, strict=True)
        gone = [i for i, r in results.items() if isinstance(r, ClientFailure) and r.num_lost]
        lost = [worker for worker in busy if not set(gone).isdisjoint(shares[worker])]
        for worker in lost:
            self.speeds.renew(worker)
        self._revive([self.actors[worker] for worker in lost])
        return [results[i] for i in range(len(work.units))]

    def _shares(self, work: Work) -> list[list[int]]:
        """Return the positions of each actor's calls, one for each in a wave."""
        if work.is_wave:
            return [[i] for i in range(len(work.units))]
        return balance(work.costs, self.speeds.of(work.task, len(self.actors)))

    def _chunk(
        self, actor: Any, ref: Any, units: Sequence[Unit], patience: Patience
    ) -> tuple[list[Any], float]:
        """Return an actor's results and the seconds that they took.

        If the actor died or hangs: the loss of all its units, and no time.
        """
        # A result that is ready in time may still have to come here from another node.
        num_clients = sum(1 if isinstance(unit, int) else len(unit) for unit in units)
        left_s = patience.left_s(num_clients)
        done, _ = wait([ref], left_s, "a client actor", patience)
        if not done:
            ray.kill(actor, no_restart=False)
            cause = f"no answer in {self.client_timeout_s:g} s per client"
            return lost_together(units, cause), 0.0
        try:
            return get(ref)
        except RayTaskError as error:
            cause = lost_task(actor, error, "what it was given is lost")
        except RayError as error:
            cause = loss_cause(error, "its actor was lost")
        return lost_together(units, *cause), 0.0

    def _revive(self, lost: Sequence[Any]) -> None:
        """Let lost actors begin again; one that does not come back is ended, and the others go on.

        LostActorError if there are no others, or if the user has set the number of actors. Another
        copy of this pool, as the driver has one, then finds that actor dead and does the same.
        """
        limit_s = REVIVAL_S
        for actor in lost:
            try:
                revive(actor, self.shared, limit_s=limit_s)
            except LostActorError as error:
                if not self.may_shrink or len(self.actors) == 1:
                    raise
                end_actor(actor)
                self.actors = [other for other in self.actors if other is not actor]
                self.speeds = WorkerSpeeds()  # which knows them by their positions
                limit_s = LEAST_LIMIT_S  # the others have had the first one's time as well
                cause = first_line(error.__cause__ or error)
                left = f"{len(self.actors)} client actor{'s' if len(self.actors) > 1 else ''}"
                logger.warning("going on with %s, without a lost one: %s", left, cause)

    def close(self) -> None:
        for actor in self.actors:
            end_actor(actor)
