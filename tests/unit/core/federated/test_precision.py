"""client.precision: products in fewer bits, and all that is kept in float32."""

from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.clients.rounds import prepare_torch
from pipeline.clients.worker import ClientWorker
from pipeline.config.load import load_config
from pipeline.config.schema import Config
from pipeline.federation.messages import FitPlan, WorkerSetup
from spire_core.config.client import ClientConfig
from spire_core.federated.messages import Broadcast, ClientUpdate, RoundPlan
from spire_core.network.flat_model import initial_weights
from spire_core.partition.split import ClientSplit, Partition

NUM_IMAGES = 24
WORDS = ("model.width=8", "model.d_emb=4", "client.batch_size=8", "client.group_size=2")


def config_of(precision: str, engine: str, *more: str) -> Config:
    words = (f"client.precision={precision}", f"client.engine={engine}", *more)
    return load_config("smoke", [*WORDS, *words])


def worker_of(config: Config, folder: Path) -> ClientWorker:
    images = np.random.default_rng(0).integers(0, 256, (3 * NUM_IMAGES, 1, 16, 16), np.uint8)
    held = np.arange(len(images)).reshape(3, NUM_IMAGES)
    splits = [ClientSplit(i, own, own) for i, own in enumerate(held)]
    partition = Partition(tuple(splits[:2]), tuple(splits[2:]))
    folder.mkdir(parents=True, exist_ok=True)
    return ClientWorker(WorkerSetup(config, {}, partition, "", folder), images)


def trained(precision: str, engine: str, folder: Path) -> list[ClientUpdate]:
    config = config_of(precision, engine)
    worker = worker_of(config, folder / f"{precision}-{engine}")
    start = Broadcast(initial_weights(config.model, config.method, 1, 0).numpy())
    plan = RoundPlan(0, lr_scale=0.1, shares_local=True, tau=4)
    units = [(0, 1)] if engine == "grouped" else [(0,), (1,)]
    return [update for unit in units for update, _ in worker.trained(unit, 0, start, plan)]


@pytest.mark.parametrize("engine", ["loop", "grouped"])
def test_bf16_rounds_little_and_keeps_nothing_in_bfloat16(engine: str, tmp_path: Path) -> None:
    exact, rounded, again = (
        trained(precision, engine, tmp_path / name)
        for precision, name in (("float32", "a"), ("bf16", "b"), ("bf16", "c"))
    )
    for one, other, same in zip(exact, rounded, again, strict=True):
        assert other.weights.dtype == np.float32
        assert np.array_equal(other.weights, same.weights)
        assert other.loss == pytest.approx(one.loss, rel=0.02)
        moved = np.linalg.norm(one.weights - initial())
        assert 0 < np.linalg.norm(other.weights - one.weights) < 0.3 * moved
    assert not torch.is_autocast_enabled("cpu")


@pytest.mark.parametrize(
    ("precision", "device", "asked"),
    [
        ("tf32", "cuda", "high"),
        ("tf32", "cpu", "highest"),
        ("float32", "cuda", "highest"),
        ("bf16", "cuda", "highest"),
    ],
)
def test_tf32_is_for_the_products_of_gpus(precision: str, device: str, asked: str) -> None:
    before = torch.get_float32_matmul_precision()
    try:
        prepare_torch(ClientConfig(precision=precision), torch.device(device))
        assert torch.get_float32_matmul_precision() == asked
    finally:
        torch.set_float32_matmul_precision(before)


def initial() -> np.ndarray:
    config = config_of("float32", "loop")
    return initial_weights(config.model, config.method, 1, 0).numpy()


def test_new_clients_train_in_the_same_precision(tmp_path: Path) -> None:
    found = []
    for precision in ("float32", "bf16"):
        more = ("adapt.epochs=2", "adapt.batch_size=8", "adapt.eval_every=2")
        worker = worker_of(config_of(precision, "loop", *more), tmp_path / precision)
        plan = FitPlan(initial_with_projection(), torch.zeros(1, 0), is_together=True)
        (fitted,) = worker.adapt([2], plan)
        found.append(fitted.curve[-1].train_loss)
    assert found[1] == pytest.approx(found[0], rel=0.02)
    assert found[1] != found[0]


def initial_with_projection() -> np.ndarray:
    """Weights none of which is zero, so that an embedding has a gradient."""
    weights = initial()
    return weights + 0.02 * np.random.default_rng(1).standard_normal(len(weights), np.float32)
