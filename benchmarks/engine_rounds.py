"""The parts of `engine.py` that are about rounds: a step, a whole round, start-up, the average."""

import contextlib
import dataclasses
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from plain_loop import PlainLoop, PlainUNet, Work, train_clients
from timing import Systems, alternately

from pipeline.clients.worker import ClientWorker
from pipeline.cluster.actor_plan import ActorPlan
from pipeline.cluster.actor_pool import RayClientPool
from pipeline.cluster.session import cluster
from pipeline.config.federation import FederationConfig
from pipeline.config.load import load_config
from pipeline.config.schema import Config
from pipeline.federation.driver import Driver
from pipeline.federation.messages import WorkerSetup
from pipeline.federation.pool import ClientPool, LocalClientPool
from pipeline.federation.rounds import RoundSettings
from spire_core.federated.messages import ClientUpdate
from spire_core.federated.server import ServerState, aggregate
from spire_core.federated.sums import average
from spire_core.network.flat_model import FlatModel, initial_weights
from spire_core.partition.split import ClientSplit, Partition

IMAGES = 100  # of a client
WORKS = {
    "tiny, 20 clients x 4 steps": Work(width=8, num_clients=20, steps=4),
    "small, 20 clients x 4 steps": Work(width=16, num_clients=20, steps=4),
    "tiny, 200 clients x 1 step": Work(width=8, num_clients=200, steps=1),
}
STEP = Work(width=8, num_clients=5, steps=4)
MOST_CLIENTS = max(work.num_clients for work in WORKS.values())


def config_for(width: int, engine: str, *more: str) -> Config:
    """The acceptance's network and training: 16 x 16 x 1 as it is, fresh Adam, batches of 32."""
    return load_config(
        None,
        [
            "method=fedavg",
            f"model.width={width}",
            f"model.cond_dim={4 * width}",
            "model.multipliers=[1,2,2]",
            "model.attention=[1]",
            "model.space_to_depth=1",
            f"federation.num_clients={MOST_CLIENTS}",
            f"federation.cohort_size={MOST_CLIENTS}",
            "client.batch_size=32",
            "client.opt_state=reset",
            f"client.engine={engine}",
            *more,
        ],
    )


def check_same_network(width: int) -> None:
    """Raise AssertionError unless the plain U-Net and ours compute the same."""
    config, plain = config_for(width, "loop"), PlainUNet(width)
    ours = FlatModel(config.model, config.method, 1)
    for p in plain.parameters():
        torch.nn.init.normal_(p, std=0.1)
    ours.load(ours.flatten(plain.state_dict()))
    x, t = torch.randn(2, 1, 16, 16), torch.tensor([3, 700])
    torch.testing.assert_close(ours.net(x, t), plain(x, t), rtol=1e-3, atol=1e-3)


def setup_for(config: Config, folder: Path) -> tuple[WorkerSetup, np.ndarray]:
    """Random images of the acceptance's shape, `IMAGES` to a client."""
    images = np.random.default_rng(0).integers(0, 256, (MOST_CLIENTS * IMAGES, 1, 16, 16), np.uint8)
    held = np.arange(len(images)).reshape(MOST_CLIENTS, IMAGES)
    clients = tuple(ClientSplit(i, own, own) for i, own in enumerate(held))
    mixtures = {i: np.full(10, 0.1) for i in range(MOST_CLIENTS)}
    return WorkerSetup(config, mixtures, Partition(clients, ()), "", folder), images


def driver_for(pool: ClientPool, config: Config, work: Work) -> Driver:
    weights = initial_weights(config.model, config.method, 1, 0).numpy()
    federation = FederationConfig(
        num_clients=work.num_clients, cohort_size=work.num_clients, num_rounds=1000, tau=work.steps
    )
    config = dataclasses.replace(config, federation=federation, seed=0)
    layout = FlatModel(config.model, config.method, 1).layout
    rounds = RoundSettings(config, [IMAGES] * work.num_clients, layout.num_without_local)
    return Driver(pool, ServerState.initial(weights), rounds)


def actor_pids() -> set[int]:
    """The client actors of this process's own Ray."""
    return {
        process.pid
        for process in psutil.Process().children(recursive=True)
        if "".join(process.cmdline()[:1]).startswith("ray::ClientActor")
    }


@contextlib.contextmanager
def ray_pools(folder: Path, engines: Sequence[str]) -> Iterator[dict[tuple[int, str], Any]]:
    """Yield a pool of two actors for each width and engine, its configuration, and its pids."""
    with cluster(num_cpus=16) as _, contextlib.ExitStack() as stack:
        pools = {}
        for width in sorted({work.width for work in WORKS.values()}):
            for engine in engines:
                config = config_for(width, engine)
                setup, images = setup_for(config, folder)
                before = actor_pids()
                pool = RayClientPool.start(setup, images, ActorPlan(2, 1.0, 0.0))
                stack.callback(pool.close)
                pools[width, engine] = pool, config, sorted(actor_pids() - before)
        yield pools


def time_rounds(repeats: int) -> dict[str, Any]:
    """Whole rounds: hand-out, local training of all clients, average."""
    plain = PlainLoop(MOST_CLIENTS)
    found: dict[str, Any] = {}
    with (
        tempfile.TemporaryDirectory() as folder,
        contextlib.closing(plain),
        ray_pools(Path(folder), ("loop", "auto")) as pools,
    ):
        for name, work in WORKS.items():
            start = dict(PlainUNet(work.width).state_dict())
            systems: Systems = {
                f"plain loop{told}": (
                    lambda w=work, s=start, f=fused: plain.run_round(w, s, f),
                    plain.pids,
                    1,
                )
                for told, fused in (("", False), (", fused Adam", True))
            }
            for engine in ("loop", "auto"):
                pool, config, pids = pools[work.width, engine]
                driver = driver_for(pool, config, work)
                systems[f"ray, engine={engine}"] = driver.run_round, pids, 1
            found[f"round: {name}"] = alternately(systems, repeats)
    return found


def time_step(repeats: int) -> dict[str, Any]:
    """Local steps of five clients in this process, with their hand-out and average."""
    images = torch.randint(0, 256, (STEP.num_clients, IMAGES, 1, 16, 16), dtype=torch.uint8)
    start = {k: p.detach() for k, p in PlainUNet(STEP.width).state_dict().items()}
    units = STEP.num_clients * STEP.steps
    systems: Systems = {
        "plain loop": (
            lambda: train_clients(STEP, list(range(STEP.num_clients)), images, start, False),
            (),
            units,
        )
    }
    with tempfile.TemporaryDirectory() as folder:
        for engine in ("loop", "auto"):
            config = config_for(STEP.width, engine)
            pool = LocalClientPool(ClientWorker(*setup_for(config, Path(folder))))
            systems[f"engine={engine}"] = driver_for(pool, config, STEP).run_round, (), units
        return {"step, tiny, batch 32, one process": alternately(systems, repeats)}


def first_round(pool: str) -> None:
    """Start a pool, run one round of the tiny work, end."""
    config, work = config_for(8, "auto"), WORKS["tiny, 20 clients x 4 steps"]
    with tempfile.TemporaryDirectory() as name:
        setup, images = setup_for(config, Path(name))
        if pool == "local":
            driver_for(LocalClientPool(ClientWorker(setup, images)), config, work).run_round()
            return
        with cluster(num_cpus=2):
            actors = RayClientPool.start(setup, images, ActorPlan(2, 1.0, 0.0))
            driver_for(actors, config, work).run_round()


def time_startup(repeats: int) -> dict[str, Any]:
    """From the start of the interpreter to its end after one round of the tiny work."""
    here = Path(__file__).parent
    commands = {
        "plain loop": [here / "plain_loop.py"],
        "local": [here / "engine.py", "--first-round", "local"],
        "ray": [here / "engine.py", "--first-round", "ray"],
    }
    systems: Systems = {
        name: (lambda c=command: subprocess.run([sys.executable, *map(str, c)], check=True), (), 1)
        for name, command in commands.items()
    }
    timed = alternately(systems, min(3, repeats))
    for own in timed.values():  # what ended is no descendant any more: only wall time is known
        own |= {"cpu_s": None, "cpu_ratio": None}
    return {"start-up to the end of round 1, tiny": timed}


def time_aggregation(repeats: int) -> dict[str, Any]:
    """Check and weighted mean of 20 updates of the small network."""
    config, rng = config_for(16, "loop"), np.random.default_rng(0)
    weights = initial_weights(config.model, config.method, 1, 0).numpy()
    updates = [
        ClientUpdate(i, IMAGES, 4, 0.0, rng.standard_normal(weights.size, np.float32))
        for i in range(20)
    ]
    state = ServerState.initial(weights)

    def plain() -> np.ndarray:
        total = np.zeros_like(weights)
        for update in updates:
            total += update.num_examples * update.weights
        return total / sum(update.num_examples for update in updates)

    systems: Systems = {
        "plain sum in float32": (plain, (), 1),
        "ours, exact": (
            lambda: aggregate(state, average(updates, state.broadcast), config.server),
            (),
            1,
        ),
    }
    return {"average of 20 updates, small": alternately(systems, repeats)}
