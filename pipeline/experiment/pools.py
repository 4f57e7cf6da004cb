"""The client pool of a run, and what makes its driver: in this process, or as Ray actors.

Ray is imported where it is used, so that a run with resources.pool=local starts without it.
"""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from pipeline.clients.memory import server_bytes
from pipeline.clients.worker import ClientWorker
from pipeline.cluster.actor_plan import ActorPlan, most_useful_actors, plan_on_nodes
from pipeline.federation.driver import Driver
from pipeline.federation.messages import WorkerSetup
from pipeline.federation.pool import ClientPool, LocalClientPool
from pipeline.federation.rounds import RoundSettings
from pipeline.federation.setup import FederationSetup
from pipeline.runs.noise_key import keep_noise_device
from spire_core.federated.server import ServerState

MakeDriver = Callable[[ClientPool, ServerState, RoundSettings], Driver]


@contextlib.contextmanager
def open_pool(
    setting: FederationSetup, folder: Path, held: ActorPlan | None = None
) -> Iterator[tuple[ClientPool, MakeDriver]]:
    """Yield the client pool that the configuration asks for, and what makes a driver for it.

    `held`: the actors that the cluster keeps room for; without it they are planned here. RunError
    for a run that has drawn private noise on another kind of device.
    """
    config = setting.config
    setup = WorkerSetup(
        config,
        setting.mixtures,
        setting.partition,
        setting.extractor,
        folder,
        setting.tokens,
        setting.data.labels,
        setting.reference,
        setting.backbone_hash,
    )
    if config.resources.pool == "local":
        keep_noise_device(folder, config.privacy, "cpu")
        yield LocalClientPool(ClientWorker(setup, setting.images)), Driver
        return

    from pipeline.cluster.actor_pool import RayClientPool
    from pipeline.cluster.driver_actor import RemoteDriver
    from pipeline.cluster.session import cluster, cluster_nodes, is_in_actor

    with cluster():
        most = most_useful_actors(config)
        plan = held or plan_on_nodes(config.resources, cluster_nodes(), most)
        with contextlib.ExitStack() as stack:
            make_driver: MakeDriver = Driver
            if config.method.record.is_federated and not is_in_actor():
                remote = RemoteDriver()  # its process starts beside those of the clients
                stack.callback(remote.close)
                make_driver = remote.begin
            memory = server_bytes(config, setting.model.layout.size)
            pool = RayClientPool.start(setup, setting.images, plan, memory)
            stack.callback(pool.close)
            keep_noise_device(folder, config.privacy, plan.device(config.resources))
            yield pool, make_driver
