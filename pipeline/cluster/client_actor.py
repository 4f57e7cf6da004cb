"""A process that simulates clients, as a Ray actor."""

import os
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import ray

from pipeline.clients.memory import Footprint, footprint, resident_bytes
from pipeline.cluster.actor_plan import choose_device
from pipeline.federation.messages import WorkerSetup
from pipeline.federation.work import Work, lost_together, run_here
from spire_core.errors import ClusterError

if TYPE_CHECKING:
    from pipeline.clients.worker import ClientWorker


@ray.remote
class ClientActor:
    """One long-lived process that simulates clients on its share of the machine."""

    worker: "ClientWorker | None" = None  # None in a restarted process, until it begins

    def run(self, work: Work, *args: Any) -> tuple[list[Any], float]:
        """Return results as `run_here` does, and the seconds that they took.

        The arguments travel beside the work, because Ray resolves handles at the top level only.
        """
        began = time.monotonic()
        if self.worker is None:
            return lost_together(work.units, "its actor was lost"), 0.0
        return run_here(self.worker, replace(work, args=args)), time.monotonic() - began

    def ask(self, method: str, *args: Any) -> tuple[Any] | None:
        """Return the result of a method of the worker, as a tuple; None without a worker."""
        return None if self.worker is None else (getattr(self.worker, method)(*args),)

    def leave(self) -> None:
        """End this process; whatever is called next is called in the one that Ray starts then."""
        os._exit(1)

    def begin(self, setup: WorkerSetup, images: np.ndarray, rehearses: bool = False) -> Footprint:
        """Begin, also after a restart; ClusterError if this node does not see the run's folder.

        Returns free memory and, with a rehearsal, that of a round. The setup does not come through
        `__init__`: an error would lose its type, and Ray warns of restarts with stored arguments.
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
        node = ray.get_runtime_context().get_node_id()
        return footprint(node, before, self.worker.context.device)
