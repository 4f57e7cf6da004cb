"""The work on SPIRE's own driver and client pools; `ours` runs it."""

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.peers.work import (
    BATCH_SIZE,
    DIFFUSION,
    LR,
    METHOD,
    NUM_PROCESSES,
    SEED,
    WORKS,
    Work,
    arguments,
    client_images,
    first_weights,
    report,
)
from pipeline.config.federation import FederationConfig
from pipeline.config.resources import ResourcesConfig
from pipeline.config.schema import Config
from pipeline.data.datasets import ImageData
from pipeline.experiment.pools import open_pool
from pipeline.federation.driver import Driver
from pipeline.federation.rounds import RoundSettings
from pipeline.federation.setup import FederationSetup
from spire_core.config.client import ClientConfig
from spire_core.federated.server import ServerState
from spire_core.network.flat_model import FlatModel
from spire_core.partition.split import ClientSplit, Partition


def make_config(work: Work, pool: str, engine: str) -> Config:
    return Config(
        seed=SEED,
        model=work.model,
        diffusion=DIFFUSION.config,
        method=METHOD,
        federation=FederationConfig(
            num_clients=work.num_clients,
            num_new_clients=0,
            cohort_size=work.num_clients,
            num_rounds=1000,
            tau=work.num_steps,
        ),
        client=ClientConfig(
            batch_size=BATCH_SIZE,
            lr=LR,
            opt_state="reset",
            lr_schedule="constant",
            warmup_rounds=0,
            engine=engine,
        ),
        resources=ResourcesConfig(pool=pool, num_actors=NUM_PROCESSES),
    )


@contextlib.contextmanager
def opened_driver(work: Work, pool: str, engine: str) -> Iterator[Driver]:
    """Yield a driver that runs rounds of a work on a new pool of clients."""
    config, images = make_config(work, pool, engine), client_images(work.num_clients)
    held = np.arange(images.shape[0] * images.shape[1]).reshape(images.shape[:2])
    partition = Partition(tuple(ClientSplit(i, own, own[:0]) for i, own in enumerate(held)), ())
    flat = images.reshape(-1, *images.shape[2:])
    data = ImageData("mnist", flat, np.zeros(len(flat), dtype=np.int64), ("any",), "", "train")
    model = FlatModel(config.model, config.method, flat.shape[1])
    setting = FederationSetup(config, data, partition, "mnist", "", model)
    with tempfile.TemporaryDirectory() as folder, open_pool(setting, Path(folder)) as opened:
        clients, make_driver = opened
        state = ServerState.initial(first_weights(work).numpy())
        rounds = RoundSettings(config, partition.train_sizes, model.layout.num_without_local)
        driver = make_driver(clients, state, rounds)
        yield driver
        driver.close()


def run_rounds() -> None:
    args = arguments("--pool", "--engine")
    with opened_driver(WORKS[args.work], args.pool, args.engine) as driver:
        for _ in range(args.num_rounds):
            stats = driver.run_round()
            assert stats.loss is not None  # nothing here is private
            report(stats.round_idx, stats.loss)
