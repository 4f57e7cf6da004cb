"""A process that simulates clients, as a Ray actor."""

import os
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import ray

from pipeline.clients.memory import Room, room_of
from pipeline.cluster.actor_plan import choose_device
from pipeline.federation.messages import WorkerSetup
from spire_core.errors import ClusterError

if TYPE_CHECKING:
    from pipeline.clients.worker import ClientWorker


class BegunAnewError(RuntimeError):
    """A process that Ray has started in the place of a lost one, which has no worker yet."""


@ray.remote
class ClientActor:
    """One long-lived process that simulates clients on its share of the machine."""

    worker: "ClientWorker | None" = None  # None in a restarted process, until it begins

    def run(self, task: str, unit: Any, *args: Any) -> tuple[Any, float]:
        """Return the result of a task for a unit of clients, and the seconds that it took.

        A process that has lost its GPU ends: after an illegal access, say, every later call of CUDA
        fails in it.
        """
        began = time.monotonic()
        try:
            return self.ask(task, unit, *args), time.monotonic() - began
        except RuntimeError as error:
            if "CUDA error" in str(error) and "out of memory" not in str(error):
                os._exit(1)
            raise

    def ask(self, method: str, *args: Any) -> Any:
        """Return the result of a method of the worker; BegunAnewError without one."""
        if self.worker is None:
            raise BegunAnewError("its process has begun anew")
        return getattr(self.worker, method)(*args)

    def begin(self, setup: WorkerSetup, images: np.ndarray, measures: bool = False) -> Room:
        """Begin, also after a restart; ClusterError if this node does not see the run's folder.

        Returns free memory and, if it `measures` one, that of a step. The setup does not come
        through `__init__`: an error would lose its type, and Ray warns of restarts with stored
        arguments.
        """
        if not setup.folder.is_dir():
            raise ClusterError(
                f"expected the run's folder {setup.folder} on every node, got a node without it: "
                "name a folder that all nodes share with tracking.root=FOLDER or SPIRE_ROOT"
            )
        from pipeline.clients.worker import ClientWorker

        device = choose_device(setup.config.resources, bool(ray.get_gpu_ids()))
        self.worker = ClientWorker(setup, images, device)
        need = self.worker.measure_step().peak_bytes if measures else 0
        node = ray.get_runtime_context().get_node_id()
        return room_of(node, self.worker.device, need)
