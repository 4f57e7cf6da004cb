"""Embeddings of many new clients fitted in one batch: the numbers of separate fits."""

import dataclasses
from typing import Any

import pytest
import torch

from spire_core.adaptation.adapt import Adapted, adapt_client, adapt_embeddings
from spire_core.config.adapt import AdaptConfig
from spire_core.config.diffusion import DiffusionConfig
from spire_core.config.method import MethodConfig
from spire_core.config.model import ModelConfig
from spire_core.diffusion.process import Diffusion
from spire_core.federated.private_state import PrivateState
from spire_core.network.flat_model import FlatModel, initial_weights
from spire_core.rng import torch_generator
from spire_core.training.context import ClientContext
from spire_core.training.fit import TrainingObjective

MODEL = ModelConfig(d_emb=5, width=8, multipliers=(1, 2), attention=(1,), cond_dim=16)
WORDS = dataclasses.replace(MODEL, text="words", words=tuple("abcd"))
SIZES = {7: 20, 3: 9, 12: 30}  # images of each new client: unequal batches and epochs


@pytest.fixture
def float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def fit_all(
    together: bool, network: ModelConfig = MODEL, **settings: Any
) -> tuple[list[Adapted], list[list[int]]]:
    """All clients' results, and the epochs at which each was observed."""
    method = MethodConfig(name="spire")
    model = FlatModel(network, method, 1)
    weights = initial_weights(network, method, 1, seed=1)
    weights += 0.05 * torch.randn(weights.shape, generator=torch_generator(1, "perturb"))
    objective = TrainingObjective(Diffusion.of(DiffusionConfig()), 0.1)
    config = AdaptConfig(**{"epochs": 4, "batch_size": 8, "eval_every": 2, **settings})
    ids = list(SIZES)
    embs = [torch.randn(5, generator=torch_generator(2, "e", c)) for c in ids]
    starts = [PrivateState({"client_emb": emb}) for emb in embs]
    images = [
        torch.randint(0, 256, (SIZES[c], 1, 8, 8), generator=torch_generator(2, "images", c)).byte()
        for c in ids
    ]
    tokens: list[torch.Tensor | None] = [None for _ in ids]
    if network.text == "words":
        streams = [torch_generator(2, "tokens", c) for c in ids]
        sizes = [(SIZES[c], 3) for c in ids]
        tokens = [torch.randint(0, 5, n, generator=g) for n, g in zip(sizes, streams, strict=True)]
    clients = [
        ClientContext(c, 2, own, text) for c, own, text in zip(ids, images, tokens, strict=True)
    ]
    seen: list[list[int]] = [[] for _ in ids]
    observers = [
        lambda epoch, state, own=own: own.append(epoch) or {"sum": float(state.client_emb.sum())}
        for own in seen
    ]
    if together:
        more = (config, objective, observers)
        return adapt_embeddings(model, weights, clients, starts, *more), seen
    found = [
        adapt_client(model, weights, client, start, config, objective, observe)
        for client, start, observe in zip(clients, starts, observers, strict=True)
    ]
    return found, seen


def assert_close(found: list[Adapted], expected: list[Adapted], tolerance: float) -> None:
    for one, other in zip(found, expected, strict=True):
        assert one.kept_epoch == other.kept_epoch
        assert one.state.parts.keys() == other.state.parts.keys() == {"client_emb"}
        mine, theirs = one.state.parts["client_emb"], other.state.parts["client_emb"]
        torch.testing.assert_close(mine, theirs, rtol=tolerance, atol=tolerance)
        for point, wanted in zip(one.curve, other.curve, strict=True):
            mine, theirs = dataclasses.asdict(point), dataclasses.asdict(wanted)
            for name, value in theirs.items():
                close = value if value is None else pytest.approx(value, rel=10 * tolerance)
                assert mine[name] == close, name


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"early_stopping": True, "lr": 3.0, "epochs": 8},
        {"draws": None, "schedule": "cosine", "average": 0.5},
        {"draws": 2, "average": 0.6, "early_stopping": True, "lr": 0.1},
    ],
)
@pytest.mark.usefixtures("float64")
def test_together_is_one_by_one(settings: dict[str, Any]) -> None:
    found, seen = fit_all(True, **settings)
    expected, seen_alone = fit_all(False, **settings)
    assert_close(found, expected, 1e-10)
    assert seen == seen_alone


@pytest.mark.usefixtures("float64")
def test_captions_are_shown_together_as_one_by_one() -> None:
    settings = {"early_stopping": True, "lr": 0.05, "draws": 2}
    found, _ = fit_all(True, WORDS, **settings)
    assert_close(found, fit_all(False, WORDS, **settings)[0], 1e-10)
    embs = [
        torch.cat([one.state.parts["client_emb"] for one in results])
        for results in (found, fit_all(True, **settings)[0])
    ]
    assert not torch.allclose(*embs, atol=1e-3)  # the captions count
