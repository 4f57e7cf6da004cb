"""How fast clients train in one process beside a plain PyTorch loop, and new clients are fitted.

    GLIBC_TUNABLES=glibc.malloc.hugetlb=1 python -m benchmarks.engine

Huge pages are the memory that client actors have. The systems of a part are timed in turns, so that
all of them meet the same machine. Printed are medians of milliseconds per unit of work, and ratios
to the first system. On a machine that does other work only the CPU seconds mean something.
`benchmarks.peers` times whole rounds with two processes.
"""

import argparse
import contextlib
import os
import time
from collections.abc import Callable

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch

from benchmarks.peers.ours_rounds import opened_driver
from benchmarks.peers.plain import train_clients
from benchmarks.peers.run import prepare_data
from benchmarks.peers.work import WORKS, Work, first_weights, kept
from pipeline.clients.memory import keep_freed_memory
from pipeline.config.load import load_config
from spire_core.adaptation.adapt import adapt_client, adapt_embeddings
from spire_core.config.adapt import AdaptConfig
from spire_core.config.method import MethodConfig
from spire_core.config.model import ModelConfig
from spire_core.diffusion.process import Diffusion
from spire_core.federated.private_state import PrivateState
from spire_core.methods import CLIENT_EMB
from spire_core.network.flat_model import FlatModel, initial_weights
from spire_core.training.context import ClientContext
from spire_core.training.fit import TrainingObjective

STEP = Work(width=8, num_clients=5, num_steps=4)
NEW_CLIENTS, AT_ONCE = 64, 8
Call = Callable[[], object]


def compare(part: str, systems: dict[str, tuple[Call, int]], repeats: int) -> None:
    """Print a row for each system: a call, and its units of work."""
    costs: dict[str, list[tuple[float, float]]] = {name: [] for name in systems}
    for _ in range(repeats + 1):
        for name, (call, _) in systems.items():
            wall, cpu = time.perf_counter(), time.process_time()
            call()
            costs[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    # The first time warms up.
    found = {name: np.median(costs[name][1:], axis=0) / systems[name][1] for name in systems}
    first = next(iter(found.values()))
    for name, seconds in found.items():
        cells = [*(1000 * seconds), *(seconds / first)]
        print(f"| {part} | {name} | {' | '.join(f'{cell:.3g}' for cell in cells)} |", flush=True)


def time_step(repeats: int) -> None:
    """Time local steps of five clients, with their hand-out and average."""
    units = STEP.num_clients * STEP.num_steps
    net, images = kept(STEP)
    start, everyone = first_weights(STEP), range(STEP.num_clients)
    systems: dict[str, tuple[Call, int]] = {
        "plain loop": (lambda: train_clients(net, images, start, STEP, everyone, 0), units)
    }
    with contextlib.ExitStack() as stack:
        for engine in ("loop", "grouped"):
            driver = stack.enter_context(opened_driver(STEP, "local", engine))
            systems[f"engine={engine}"] = driver.run_round, units
        compare("step", systems, repeats)


class Fits:
    """Fits embeddings of new clients in a network, each on 64 images of its own for one epoch."""

    def __init__(self, network: ModelConfig) -> None:
        config, self.settings = load_config("mnist-cpu"), AdaptConfig(epochs=1)
        self.objective = TrainingObjective(Diffusion.of(config.diffusion))
        images = torch.randint(0, 256, (NEW_CLIENTS, 64, 1, 16, 16), dtype=torch.uint8)
        self.clients = [ClientContext(i, 0, own) for i, own in enumerate(images)]
        self.model = FlatModel(network, MethodConfig("spire"), 1)
        self.weights = initial_weights(network, MethodConfig("spire"), 1, 0)
        self.start = PrivateState({CLIENT_EMB: torch.zeros(network.d_emb)})

    def one_by_one(self) -> None:
        for client in self.clients[:AT_ONCE]:
            adapt_client(
                self.model,
                self.weights,
                client,
                self.start,
                self.settings,
                self.objective,
                lambda *_: {},
            )

    def together(self) -> None:
        for first in range(0, NEW_CLIENTS, AT_ONCE):
            clients = self.clients[first : first + AT_ONCE]
            starts, observers = [self.start] * AT_ONCE, [lambda *_: {}] * AT_ONCE
            adapt_embeddings(
                self.model, self.weights, clients, starts, self.settings, self.objective, observers
            )


def time_adaptation(repeats: int) -> None:
    """Time one pass over 64 images in batches of 16, in three networks; a unit is a client."""
    networks = {name: WORKS[name].model for name in ("tiny", "small")}
    for name, network in {**networks, "mnist-cpu": load_config("mnist-cpu").model}.items():
        fits = Fits(network)
        systems: dict[str, tuple[Call, int]] = {
            f"in batches of {AT_ONCE} clients": (fits.together, NEW_CLIENTS),
            "one by one": (fits.one_by_one, AT_ONCE),
        }
        compare(f"adaptation, {name}", systems, repeats)


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()  # as a `ClientWorker` does
    prepare_data()
    print("| part | system | ms | CPU ms | ratio | CPU ratio |\n|---|---|--:|--:|--:|--:|")
    time_step(args.repeats)
    time_adaptation(args.repeats)


if __name__ == "__main__":
    main()
