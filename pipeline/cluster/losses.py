"""An actor that is lost: the cause, and its return in a new process."""

import time
from typing import Any

from ray.exceptions import ActorUnavailableError, GetTimeoutError, RayError, RayTaskError

from pipeline.clients.memory import Footprint
from pipeline.cluster.results import get, loss_cause, loss_error, task_error
from pipeline.federation.machine_faults import has_lost_gpu
from pipeline.federation.work import SEE_LOG
from spire_core.errors import first_line

REVIVAL_S = 120.0  # for an actor to come back, perhaps on another node


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


def revive(actor: Any, shared: tuple[Any, Any], rehearses: bool = False) -> Footprint:
    """Let an actor begin again after a loss; ClusterError if it cannot, or takes too long.

    `shared`: references to the setup and to all images.
    """
    end = time.monotonic() + REVIVAL_S
    while True:
        try:
            again = actor.begin.remote(*shared, rehearses)
            return get(again, max(0.1, end - time.monotonic()))
        except (ActorUnavailableError, GetTimeoutError) as error:
            if time.monotonic() > end:
                raise loss_error(error) from error
            time.sleep(0.1)
        except RayTaskError as error:
            raise task_error(error) from error
        except RayError as error:
            raise loss_error(error) from error
