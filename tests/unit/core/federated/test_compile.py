"""client.compile: a compiled network trains as the plain one does, to rounding."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.clients.worker import ClientWorker
from pipeline.config.load import load_config
from pipeline.config.meaning import fingerprint, pretrain_fingerprint
from pipeline.config.schema import Config
from pipeline.federation.messages import WorkerSetup
from spire_core.config.adapt import AdaptConfig
from spire_core.config.client import with_engine
from spire_core.errors import ConfigError
from spire_core.federated.messages import Broadcast, ClientUpdate, RoundPlan
from spire_core.network.flat_model import initial_weights
from spire_core.partition.split import ClientSplit, Partition
from spire_core.rng import torch_generator

NUM_IMAGES = 20  # two batches of 8 and one of 4
PLAN = RoundPlan(0, lr_scale=1.0, shares_local=True, tau=4)
SETTINGS = AdaptConfig(epochs=2, batch_size=8, eval_every=2)
needs_compiler = pytest.mark.skipif(
    shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU"
)


def config_of(compiled: bool, *more: str) -> Config:
    words = ["model.width=8", "model.d_emb=4", "model.multipliers=[1]", "model.attention=[]"]
    words += ["client.batch_size=8", "client.engine=loop", f"client.compile={compiled}"]
    return load_config("smoke", [*words, *more])


def worker_of(config: Config, folder: Path) -> ClientWorker:
    images = np.random.default_rng(0).integers(0, 256, (NUM_IMAGES, 1, 16, 16), np.uint8)
    own = np.arange(NUM_IMAGES)
    partition = Partition((ClientSplit(0, own, own),), ())
    folder.mkdir()
    mixtures = {0: np.full(10, 0.1)}
    return ClientWorker(WorkerSetup(config, mixtures, partition, "mnist-cnn", folder), images)


def weights_of(config: Config) -> Tensor:
    """Weights none of which is zero, so that all of them have a gradient."""
    weights = initial_weights(config.model, config.method, 1, 0)
    return weights + 0.02 * torch.randn(weights.shape, generator=torch_generator(0, "more"))


def trained(worker: ClientWorker) -> ClientUpdate:
    (update,) = worker.train((0,), Broadcast(weights_of(worker.setup.config).numpy()), PLAN)
    assert isinstance(update, ClientUpdate)
    return update


def adapted_losses(worker: ClientWorker) -> list[float]:
    """Return the loss of a new client's last epoch, and that of a tuned client on unseen images."""
    config, features = worker.setup.config, worker.evaluator.extractor.num_features
    weights = weights_of(config).numpy()
    report = worker.adapt(0, weights, SETTINGS, None, torch.randn(30, features))
    loss = report.curve[-1].train_loss
    assert loss is not None
    if not config.method.record.can_tune:
        return [loss]
    _, tuned = worker.draw_tuned(0, weights, replace(SETTINGS, tune_epochs=1))
    return [loss, tuned.own]


@pytest.mark.parametrize("method", ["spire", "fedavg_ft", "shared_rep"])
def test_every_batch_has_the_one_shape_that_is_compiled(method: str, tmp_path: Path) -> None:
    plain = worker_of(config_of(False, f"method={method}"), tmp_path / "plain")
    filled = worker_of(config_of(True, f"method={method}"), tmp_path / "filled")
    shapes = []

    def net(xt: Tensor, t: Tensor, condition: Tensor | None) -> Tensor:
        shapes.append((len(xt), len(t), len(t) if condition is None else len(condition)))
        return filled.context.model.net(xt, t, condition)

    filled.context.model.compiled = net
    one, other = trained(plain), trained(filled)
    np.testing.assert_allclose(other.weights, one.weights, rtol=0, atol=2e-5)
    assert other.loss == pytest.approx(one.loss, rel=1e-5)
    losses = adapted_losses(plain)
    assert adapted_losses(filled) == pytest.approx(losses, rel=1e-5)
    epochs = SETTINGS.epochs + len(losses) - 1
    assert shapes == [(8, 8, 8)] * (4 + 3 * epochs)  # steps of the round, and of each epoch


@needs_compiler
@pytest.mark.filterwarnings("ignore:.*script_method. is deprecated", "ignore:The .grad attribute")
def test_a_compiled_network_trains_as_the_plain_one(tmp_path: Path) -> None:
    plain = trained(worker_of(config_of(False), tmp_path / "plain"))
    worker = worker_of(config_of(True), tmp_path / "compiled")
    compiled, again = trained(worker), trained(worker)  # a round that is done again
    assert compiled.loss == pytest.approx(plain.loss, rel=1e-5)
    np.testing.assert_allclose(compiled.weights, plain.weights, rtol=0, atol=1e-4)
    assert np.array_equal(compiled.weights, again.weights)
    assert not np.array_equal(compiled.weights, plain.weights)  # other kernels computed it


@pytest.mark.filterwarnings("ignore:.*script_method. is deprecated", "ignore:The .grad attribute")
def test_without_a_compiler_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As soon as a network is compiled, and no sooner."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    worker = worker_of(config_of(True), tmp_path / "compiled")
    model = worker.context.model
    model.compiled = torch.compile(lambda xt, t, condition: model.weights[0] * xt)  # in seconds
    with pytest.raises(ConfigError, match=r"torch\.compile can compile, got .*: install a C"):
        trained(worker)


def test_groups_are_not_compiled() -> None:
    with pytest.raises(ConfigError, match=r"client\.compile=true, got grouped"):
        config_of(True, "client.engine=grouped")
    config = config_of(False, "client.engine=auto")
    assert config.resolved_client.engine == "grouped"
    assert with_engine(replace(config.client, compile=True), config.model).engine == "loop"


@pytest.mark.parametrize("method", ["spire", "local"])
def test_it_is_part_of_what_determines_a_result(method: str) -> None:
    plain, compiled = (config_of(is_compiled, f"method={method}") for is_compiled in (False, True))
    assert fingerprint(plain) != fingerprint(compiled)
    assert pretrain_fingerprint(plain) != pretrain_fingerprint(compiled)
