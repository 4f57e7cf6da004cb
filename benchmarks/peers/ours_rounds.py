"""The work on SPIRE's own driver and client pools; `ours` runs it."""

import tempfile
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
from pipeline.federation.rounds import RoundSettings
from pipeline.federation.setup import FederationSetup
from spire_core.config.client import ClientConfig
from spire_core.federated.server import ServerState
from spire_core.network.flat_model import FlatModel
from spire_core.partition.split import ClientSplit, Partition


def make_config(work: Work, num_rounds: int, pool: str, engine: str) -> Config:
    return Config(
        seed=SEED,
        model=work.model,
        diffusion=DIFFUSION.config,
        method=METHOD,
        federation=FederationConfig(
            num_clients=work.num_clients,
            num_new_clients=0,
            cohort_size=work.num_clients,
            num_rounds=num_rounds,
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


def make_setting(work: Work, config: Config) -> FederationSetup:
    images = client_images(work.num_clients)
    held = np.arange(images.shape[0] * images.shape[1]).reshape(images.shape[:2])
    clients = tuple(ClientSplit(i, own, own[:0]) for i, own in enumerate(held))
    flat = images.reshape(-1, *images.shape[2:])
    data = ImageData("mnist", flat, np.zeros(len(flat), dtype=np.int64), ("any",), "", "train")
    return FederationSetup(
        config,
        data,
        Partition(clients, ()),
        "mnist",
        "",
        FlatModel(config.model, config.method, flat.shape[1]),
    )


def run_rounds() -> None:
    args = arguments("--pool", "--engine")
    work = WORKS[args.work]
    config = make_config(work, args.num_rounds, args.pool, args.engine)
    setting = make_setting(work, config)
    with tempfile.TemporaryDirectory() as folder, open_pool(setting, Path(folder)) as opened:
        pool, make_driver = opened
        state = ServerState.initial(first_weights(work).numpy())
        layout = setting.model.layout
        rounds = RoundSettings(config, setting.partition.train_sizes, layout.num_without_local)
        driver = make_driver(pool, state, rounds)
        for _ in range(args.num_rounds):
            stats = driver.run_round()
            assert stats.loss is not None  # nothing here is private
            report(stats.round_idx, stats.loss)
        driver.close()
