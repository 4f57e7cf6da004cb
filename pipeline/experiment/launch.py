"""What a run needs around it: its images on this machine, and Ray started beside the imports."""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator

from pipeline.cluster.actor_plan import plan_here
from pipeline.cluster.leaving import check_stays
from pipeline.config.data import DATASETS
from pipeline.config.plugins import check_reachable
from pipeline.config.schema import Config


@contextlib.contextmanager
def ready_for(config: Config, say: Callable[[str], None], begins: bool = True) -> Iterator[None]:
    """Fetch the images of a run that are missing, and let Ray start, if the run uses it.

    The imports and checks that precede the clients go on meanwhile in the block. An error in
    settings or data that they find stops Ray again. Images of the user's own are checked first, and
    Ray starts when the clients do. `say` is told what is fetched. `begins`: the run is a new one.
    ClusterError in a process that has lost a Ray.
    """
    from pipeline.data.fetch import check_source, fetch_if_missing

    check_stays()
    check_source(config.data.name, config.data.path, begins)
    fetch_if_missing(config.data.name, config.data.root, config.data.path, say)
    if config.resources.pool == "local":
        yield
        return
    check_reachable(config)
    is_elsewhere = bool(os.environ.get("RAY_ADDRESS")) or _is_connected()
    with _starting() if config.data.name in DATASETS else contextlib.nullcontext():
        if not is_elsewhere:
            plan_here(config)  # refuses actors that do not fit, before the run is recorded
        yield


def _starting() -> contextlib.AbstractContextManager[object]:
    """Let Ray start in the background of a block."""
    from pipeline.cluster.session import starting_cluster

    return starting_cluster()


def _is_connected() -> bool:
    """Return whether this process is part of a cluster already, which may be a larger one."""
    ray = sys.modules.get("ray")
    return ray is not None and ray.is_initialized()
