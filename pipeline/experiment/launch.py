"""What a run needs around it: its images on this machine, and Ray."""

import contextlib
import importlib
import threading
from collections.abc import Callable, Iterator

from pipeline.cluster.actor_plan import most_useful_actors, plan_on_nodes
from pipeline.config.plugins import check_reachable
from pipeline.config.schema import Config


@contextlib.contextmanager
def ready_for(config: Config, say: Callable[[str], None], begins: bool = True) -> Iterator[None]:
    """Fetch the images of a run that are missing, and start Ray for the block, if the run uses it.

    `say` is told what is fetched. `begins`: the run is a new one. ClusterError if its actors do not
    fit the cluster.
    """
    from pipeline.data.fetch import check_before, fetch_for

    if begins:
        check_before(config, say)
    fetch_for(config.data, say, begins)
    if config.resources.pool == "local":
        yield
        return
    check_reachable(config)
    threading.Thread(target=_import, args=(config.tracking.enabled,), daemon=True).start()
    from pipeline.cluster.session import cluster, cluster_nodes

    with cluster():
        plan_on_nodes(config.resources, cluster_nodes(), most_useful_actors(config))
        yield


def _import(tracks: bool) -> None:
    """Import what a run needs, such as torch. Ray takes seconds to start, which this fills."""
    importlib.import_module("pipeline.experiment.run")
    if tracks:
        from pipeline.tracking.mlflow_session import quiet_mlflow

        quiet_mlflow()
