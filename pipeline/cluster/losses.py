"""An actor that is lost: the cause, and its return in a new process."""

import time
from typing import Any

from ray.exceptions import ActorUnavailableError, GetTimeoutError, RayError, RayTaskError

from pipeline.clients.memory import Footprint
from pipeline.cluster.results import RESUME, get, loss_cause, loss_error, task_error
from pipeline.cluster.watch import check_now
from pipeline.federation.machine_faults import has_lost_gpu
from pipeline.federation.work import SEE_LOG
from spire_core.errors import ClusterError, first_line

REVIVAL_S = 120.0  # for an actor to come back, perhaps on another node


class LostActorError(ClusterError):
    """A lost actor does not come back, as where its node is lost and no other has room."""


def lost_task(actor: Any, error: RayTaskError, loss: str) -> tuple[str, str]:
    """Return cause and remedy of the loss that a task's error tells of; raises another error.

    A process that has lost its GPU ends: Ray takes it for alive, and every task would fail there.
    """
    if has_lost_gpu(error.cause):
        actor.leave.remote()  # `ray.kill` is not awaited: the next call could still get there
        return f"a process that has lost its GPU ({first_line(error.cause)})", SEE_LOG
    if isinstance(error.cause, RayError):
        return loss_cause(error.cause, loss)
    raise task_error(error) from error


def revive(
    actor: Any, shared: tuple[Any, Any], rehearses: bool = False, limit_s: float = REVIVAL_S
) -> Footprint:
    """Let an actor begin again after a loss; LostActorError if it does not come back in time.

    `shared`: references to the setup and to all images. ClusterError if it is back but cannot
    begin, or if the whole cluster is lost.
    """
    end = time.monotonic() + limit_s
    while True:
        try:
            again = actor.begin.remote(*shared, rehearses)
            return get(again, max(0.1, end - time.monotonic()))
        except (ActorUnavailableError, GetTimeoutError) as error:
            if time.monotonic() > end:
                raise _no_return(error, limit_s) from error
            time.sleep(0.1)
        except RayTaskError as error:
            raise task_error(error) from error
        except RayError as error:
            raise LostActorError(str(loss_error(error))) from error


def _no_return(error: Exception, limit_s: float) -> LostActorError:
    """Return the sentence about an actor that stays away; raises that of a lost cluster."""
    check_now()
    return LostActorError(
        f"expected a lost client actor to begin again on any node in {limit_s:g} s, got "
        f"{first_line(error)!r}: add a node, lower resources.num_actors, or leave it on auto, "
        f"which goes on with the actors that are left; {RESUME}"
    )
