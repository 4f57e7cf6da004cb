"""A new client is fitted by itself: no worker, no partition and no file of a run is needed."""

import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.clients.adaptation import ClientAdapter, report_of
from pipeline.clients.client_data import ClientData
from pipeline.clients.context import ModelContext
from pipeline.clients.evaluation import ClientEvaluator
from pipeline.clients.worker import ClientWorker
from pipeline.config.load import load_config
from pipeline.federation.messages import AdaptReport, FittedClient, WorkerSetup
from pipeline.results.pictures import embedding_rows
from spire_core.federated.private_state import PrivateState
from spire_core.network.flat_model import initial_weights
from spire_core.partition.split import ClientSplit, Partition

WORDS = ["model.width=8", "model.d_emb=4", "eval.num_images=8", "diffusion.sample_steps=2"]
WORDS += ["adapt.epochs=1", "adapt.lr=0.1", "eval.kid_subset_size=8", "eval.kid_num_subsets=2"]


@pytest.mark.parametrize("method", ["spire", "spire model.num_embs=3", "shared_rep"])
def test_an_adapter_alone_gives_what_a_worker_does(method: str, tmp_path: Path) -> None:
    config = load_config("smoke", [*WORDS, *f"method={method}".split()])
    images = np.random.default_rng(0).integers(0, 256, (40, 1, 16, 16), np.uint8)
    others, split = (ClientSplit(0, np.arange(5), np.arange(5, 10)),), np.arange(10, 40)
    new, mixture = ClientSplit(1, split[:16], split[16:]), np.full(10, 0.1)
    weights = initial_weights(config.model, config.method, 1, 0).numpy()
    weights += 0.02 * np.random.default_rng(1).standard_normal(len(weights), np.float32)

    folder, extractor = tmp_path / "run", "mnist-cnn"
    folder.mkdir()
    setup = WorkerSetup(config, {1: mixture}, Partition(others, (new,)), extractor, folder)
    worker = ClientWorker(setup, images)
    pooled = worker.real_features(0)
    [fitted] = worker.adapt((1,), weights, config.adapt, None, pooled)
    looks = worker.look([1], weights, pooled, fitted.asked)
    expected = report_of(fitted, [*fitted.looks, *looks])

    context = ModelContext.start(config, images.shape[1:])
    adapter = ClientAdapter(ClientEvaluator(context, extractor, tmp_path / "features"))
    known, unknown = ClientData(new, images, mixture), ClientData(new, images)
    [(fitted, state)] = adapter.fit([known], weights, config.adapt, None, pooled)
    report = reported(adapter, known, fitted, state, weights, pooled)
    kept = worker.private_state(1).to_tensors()
    assert state.to_tensors().keys() == kept.keys() != set()
    assert all(torch.equal(kept[name], own) for name, own in state.to_tensors().items())
    assert (report.curve, report.scores_after) == (expected.curve, expected.scores_after)
    assert torch.equal(report.after.features, expected.after.features)
    assert "tv" in report.scores_after
    if config.model.num_embs > 1:
        labels, part = np.array([3] * 28 + [5] * 12), state.parts["client_emb"]
        data = SimpleNamespace(labels=labels, class_names=[f"a {k}" for k in range(10)])
        setting: Any = SimpleNamespace(partition=setup.partition, images=images, data=data)
        (title, _), *rows = embedding_rows(setting, report)
        assert title == "classes that it shows: a 3 1.00"
        expected_titles = [f"embedding {m}, weight {row[-1]:.2f}" for m, row in enumerate(part)]
        assert [title for title, _ in rows] == expected_titles
        assert len({shown.tobytes() for _, shown in rows}) == 3

    [(fitted, state)] = adapter.fit([unknown], weights, config.adapt, None, pooled)
    without = reported(adapter, unknown, fitted, state, weights, pooled)
    scores = {name: score for name, score in report.scores_after.items() if name != "tv"}
    assert without.scores_after == scores
    assert without.after.histogram is None


def reported(
    adapter: ClientAdapter,
    client: ClientData,
    fitted: FittedClient,
    state: PrivateState,
    weights: np.ndarray,
    pooled: torch.Tensor,
) -> AdaptReport:
    """A fit with all looks at it."""
    looks = adapter.look([client], [state], weights, pooled, fitted.asked)
    return report_of(fitted, [*fitted.looks, *looks])


LOOK_S = 0.25


@pytest.mark.parametrize("method", ["spire", "shared_rep"])
def test_a_fit_is_timed_without_the_looks_at_it(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_config("smoke", [*WORDS, f"method={method}", "adapt.early_stopping=false"])
    images = np.random.default_rng(0).integers(0, 256, (30, 1, 16, 16), np.uint8)
    weights = initial_weights(config.model, config.method, 1, 0).numpy()
    context = ModelContext.start(config, images.shape[1:])
    evaluator = ClientEvaluator(context, "mnist-cnn", tmp_path / "features")
    adapter, generate = ClientAdapter(evaluator), evaluator.generate

    def slowly(*args: Any, **kwargs: Any) -> Any:
        time.sleep(LOOK_S)
        return generate(*args, **kwargs)

    monkeypatch.setattr(evaluator, "generate", slowly)
    clients = [ClientData(ClientSplit(i, np.arange(16), np.arange(16, 30)), images) for i in (0, 1)]
    pooled = evaluator.real_features(clients[0])
    [(fitted, state)] = adapter.fit(clients[:1], weights, config.adapt, None, pooled)
    report = reported(adapter, clients[0], fitted, state, weights, pooled)
    assert 0 < report.fit_duration_s <= report.duration_s - 2 * LOOK_S  # before, and after
    if method == "spire":  # side by side
        began = time.monotonic()
        fits = [one for one, _ in adapter.fit(clients, weights, config.adapt, None)]
        elapsed_s = time.monotonic() - began
        assert fits[0].fit_duration_s == fits[1].fit_duration_s > 0
        assert sum(one.fit_duration_s for one in fits) <= elapsed_s


@pytest.mark.parametrize(("method", "is_pulled"), [("fedavg_ft", True), ("local", False)])
def test_a_client_is_pulled_to_a_backbone_that_it_shares(
    method: str, is_pulled: bool, tmp_path: Path
) -> None:
    config = load_config("smoke", [*WORDS, f"method={method}", "eval.extractor=none"])
    images = np.random.default_rng(0).integers(0, 256, (30, 1, 16, 16), np.uint8)
    context = ModelContext.start(config, images.shape[1:])
    adapter = ClientAdapter(ClientEvaluator(context, "none", tmp_path))
    client = ClientData(ClientSplit(0, np.arange(16), np.arange(16, 30)), images)
    weights = initial_weights(config.model, config.method, 1, 0).numpy()
    found = []
    for pull in (0.0, 100.0):
        settings = replace(config.adapt, batch_size=4, pull=pull)
        [(_, state)] = adapter.fit([client], weights, settings, None, torch.zeros(1, 0))
        found.append(state.parts["body"])
    assert torch.equal(*found) != is_pulled
