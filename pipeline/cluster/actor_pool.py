"""The client pool as Ray actors: long-lived processes, each of which simulates many clients."""

import logging
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import ray
from ray.exceptions import ActorUnavailableError, GetTimeoutError, RayError, RayTaskError

from pipeline.clients.memory import Room, kept_positions
from pipeline.cluster.actor_plan import ActorPlan
from pipeline.cluster.client_actor import BegunAnewError, ClientActor
from pipeline.cluster.results import RESUME, loss_cause, result_of, task_error
from pipeline.cluster.session import free_resources
from pipeline.federation.messages import WorkerSetup
from pipeline.federation.pool import LESS_MEMORY, ClientPool, More, Tries, Units, cause_of
from spire_core.errors import ClusterError, SpireError, first_line

logger = logging.getLogger(__name__)
TICK_S = 1.0  # between two looks for hanging calls
WAIT_NOTICE_S = 30.0
REVIVAL_S = 120.0  # for a lost actor to come back, perhaps on another node
LEAST_LIMIT_S = 30.0  # for what is not a client's work
AHEAD = 2  # calls at an actor, so that it does not wait for this process


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

    @classmethod
    def start(
        cls,
        setup: WorkerSetup,
        images: np.ndarray,
        plan: ActorPlan,
        server_bytes: int = 0,
    ) -> "RayClientPool":
        """Start the actors and wait until all of them run; after 30 s, a log line says so.

        `server_bytes`: those of the driver, on this node.
        """
        shared = (ray.put(setup), ray.put(images))
        actor_class: Any = ClientActor  # made by `ray.remote`, which type checkers cannot follow
        one = actor_class.options(
            num_cpus=plan.num_cpus,
            num_gpus=plan.num_gpus,
            max_restarts=-1,  # a lost one comes back under the same handle, see `revive`
            max_task_retries=0,  # a process that has begun anew has no worker, and no sum
        )
        actors = [one.remote() for _ in range(plan.num_actors)]
        may_shrink = setup.config.resources.num_actors == "auto"
        pool = cls(actors, shared, setup.config.federation.client_timeout_s, may_shrink)
        try:
            pool._keep_fitting(pool._begin(plan), server_bytes)
        except BaseException:
            pool.close()
            raise
        return pool

    def _begin(self, plan: ActorPlan) -> list[Room]:
        """Let all actors begin, and the first of them measure a step while others still start."""
        begun = [actor.begin.remote(*self.shared, i == 0) for i, actor in enumerate(self.actors)]
        while ray.wait(begun, num_returns=len(begun), timeout=WAIT_NOTICE_S)[1]:
            logger.warning("waiting for %s; free now: %s", plan.describe(), free_resources())
        return [result_of(ref) for ref in begun]

    def _keep_fitting(self, rooms: Sequence[Room], server_bytes: int) -> None:
        """End actors that have no memory where they work; the first actor has measured a step.

        ClusterError if none is left, or if the user has set the number of actors.
        """
        total, here = len(rooms), ray.get_runtime_context().get_node_id()
        kept = kept_positions(rooms, here, server_bytes)
        if len(kept) == total:
            return
        need, least = rooms[0].need_bytes / 2**20, min(room.free_bytes for room in rooms) / 2**20
        sizes = f"{need:.0f} MiB for a step of each, {least:.0f} MiB free beside the driver"
        if not (kept and self.may_shrink):
            raise ClusterError(
                f"expected memory for {total} client actors, got {sizes}: {LESS_MEMORY}"
            )
        logger.warning("%d of %d client actors go on: %s", len(kept), total, sizes)
        for position, actor in enumerate(self.actors):
            if position not in kept:
                ray.kill(actor)
        self.actors = [self.actors[position] for position in kept]

    @property
    def num_workers(self) -> int:
        return len(self.actors)

    def share(self, value: Any) -> Any:
        return ray.put(value)

    def run_all(self, task: str, units: Units, *args: Any, per_unit: More = None) -> list[Any]:
        work = _Work(self, Tries(task, units), args, per_unit or [()] * len(units))
        while work.queue or work.sent:
            work.send()
            for ref in ray.wait(list(work.sent), timeout=TICK_S)[0]:
                work.receive(ref)
            work.end_hanging()
        return [work.results[i] for i in range(len(units))]

    def each(self, method: str, *args: Any) -> Iterator[Any]:
        for actor in list(self.actors):
            yield self._answer(actor, actor.ask.remote(method, *args))

    def total(self, name: int | str) -> Any:
        total = None
        for actor in self.actors:
            total = actor.ask.remote("merged", name, total)
        return self._answer(self.actors[-1], total)

    def _answer(self, actor: Any, ref: Any) -> Any:
        """Return an actor's answer; None from one that is lost or hangs, which begins again."""
        limit_s = self.client_timeout_s and max(self.client_timeout_s, LEAST_LIMIT_S)
        try:
            return ray.get(ref, timeout=limit_s)
        except RayTaskError as error:
            if not isinstance(error.cause, RayError | BegunAnewError):
                raise task_error(error) from error
            logger.warning("an answer of a client actor is lost (%s)", first_line(error.cause))
        except GetTimeoutError:
            logger.warning("a client actor has not answered in %g s: it begins again", limit_s)
            ray.kill(actor, no_restart=False)
        except RayError as error:
            logger.warning("a client actor was lost (%s)", first_line(error))
        self.revive(actor)
        return None

    def revive(self, actor: Any) -> None:
        """Let an actor begin again after a loss; one that does not come back is ended.

        ClusterError if there are no others, or if the user has set the number of actors.
        """
        try:
            self._begin_again(actor)
        except RayError as error:
            if not self.may_shrink or len(self.actors) == 1:
                raise ClusterError(
                    f"expected a lost client actor to begin again on any node in {REVIVAL_S:g} s, "
                    f"got {first_line(error)!r}: add a node, lower resources.num_actors, or leave "
                    f"it on auto, which goes on with the actors that are left; {RESUME}"
                ) from error
            ray.kill(actor)
            self.actors = [other for other in self.actors if other is not actor]
            left = f"{len(self.actors)} client actor{'s' * (len(self.actors) > 1)}"
            logger.warning("going on with %s, without a lost one: %s", left, first_line(error))

    def _begin_again(self, actor: Any) -> None:
        end = time.monotonic() + REVIVAL_S
        while True:
            try:
                again = actor.begin.remote(*self.shared)
                ray.get(again, timeout=max(TICK_S, end - time.monotonic()))
                return
            except RayTaskError as error:
                raise task_error(error) from error
            except ActorUnavailableError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.2)

    def close(self) -> None:
        for actor in self.actors:
            ray.kill(actor)


class _Work:
    """The units of one task on their way: waiting, sent to actors in order, and done."""

    def __init__(
        self, pool: RayClientPool, tries: Tries, args: tuple, extra: Sequence[tuple]
    ) -> None:
        self.pool, self.tries, self.args, self.extra = pool, tries, args, extra
        self.queue = deque(range(len(extra)))
        self.sent: dict[Any, tuple[Any, int]] = {}  # actor and position, by reference, in order
        self.results: dict[int, Any] = {}
        self._since: dict[Any, float] = {}  # by actor, when its first call began

    def send(self) -> None:
        """Give each actor a call, and a second one while enough are left for all."""
        for depth in range(AHEAD):
            for actor in self.pool.actors:
                load = Counter(one for one, _ in self.sent.values())[actor]
                is_due = load <= depth and len(self.queue) > depth * (len(self.pool.actors) - 1)
                if self.queue and is_due:
                    position = self.queue.popleft()
                    unit, more = self.tries.units[position], (*self.args, *self.extra[position])
                    ref = actor.run.remote(self.tries.task, unit, *more)
                    if load == 0:
                        self._since[actor] = time.monotonic()
                    self.sent[ref] = (actor, position)

    def receive(self, ref: Any) -> None:
        """Take a call's result; one that failed waits again, or ends the run."""
        if ref not in self.sent:  # it was lost with its actor, and is done with
            return
        actor, position = self.sent[ref]
        try:
            self._done(ref)
        except RayTaskError as error:
            if isinstance(error.cause, SpireError):
                raise error.cause from error
            if isinstance(error.cause, BegunAnewError):
                self._lost(actor, str(error.cause))
                return
            del self.sent[ref]
            self.queue.appendleft(position)
            is_loss = isinstance(error.cause, RayError)
            self.tries.failed(position, *(loss_cause if is_loss else cause_of)(error.cause))
        except RayError as error:
            self._lost(actor, *loss_cause(error))

    def _done(self, ref: Any) -> None:
        actor, position = self.sent[ref]
        result, busy_s = ray.get(ref)
        del self.sent[ref]
        self.results[position] = result
        self.pool.busy_s += busy_s
        self._since[actor] = time.monotonic()

    def _lost(self, actor: Any, *cause: str) -> None:
        """Take what an actor has done before its loss; the first call of the others has failed.

        An actor works in order, so that it was at that call. The others wait again.
        """
        is_first = True
        for ref, (one, position) in list(self.sent.items()):
            if one != actor:
                continue
            try:
                self._done(ref)
            except RayError:
                del self.sent[ref]
                self.queue.appendleft(position)
                if is_first:
                    self.tries.failed(position, *cause)
                is_first = False
        self.pool.revive(actor)

    def end_hanging(self) -> None:
        """End the process of each actor whose call takes longer than its clients may."""
        limit_s = self.pool.client_timeout_s
        if limit_s is None:
            return
        for actor in {one for one, _ in self.sent.values()}:
            position = next(position for one, position in self.sent.values() if one == actor)
            unit = self.tries.units[position]
            allowed_s = limit_s * (1 if isinstance(unit, int) else len(unit))
            if time.monotonic() - self._since[actor] > allowed_s:
                logger.warning("no answer in %g s per client: the actor begins again", limit_s)
                self._since[actor] = time.monotonic()
                ray.kill(actor, no_restart=False)
