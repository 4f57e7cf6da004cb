"""The set encoder: an embedding of any number of images, learnt in episodes, where fits begin."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from spire_core.adaptation.adapt import Adapted, adapt_client
from spire_core.adaptation.adapt_together import adapt_embeddings
from spire_core.adaptation.set_aside import split_validation
from spire_core.config.adapt import AdaptConfig
from spire_core.config.client import ClientConfig
from spire_core.config.diffusion import DiffusionConfig
from spire_core.config.method import MethodConfig
from spire_core.config.model import ModelConfig
from spire_core.diffusion.process import Diffusion
from spire_core.federated.client import train_client
from spire_core.federated.messages import Broadcast, RoundPlan
from spire_core.federated.private_state import PrivateState, new_private_state
from spire_core.methods import CLIENT_EMB
from spire_core.network.flat_model import FlatModel, initial_weights
from spire_core.network.set_encoder import SetEncoder
from spire_core.training.context import ClientContext
from spire_core.training.fit import TrainingObjective, to_float

MODEL = ModelConfig(
    d_emb=5, width=8, multipliers=(1, 2), attention=(), cond_dim=16, set_encoder=True
)
ALWAYS = MethodConfig("spire", episodes=1.0)
CONFIG = ClientConfig(batch_size=8, emb_first_steps=1, opt_state="reset")
OBJECTIVE = TrainingObjective(Diffusion.of(DiffusionConfig()), CONFIG.betas)
FIT = AdaptConfig(epochs=2, batch_size=4, lr=1e-12, init="encoder")  # it stays where it begins


def images(num: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (num, 1, 8, 8), generator=generator, dtype=torch.uint8)


def trained_weights() -> Tensor:
    weights = initial_weights(MODEL, ALWAYS, 1, 0)
    return weights + 0.05 * torch.randn(weights.shape, generator=torch.Generator().manual_seed(1))


def encoder() -> SetEncoder:
    model = FlatModel(MODEL, ALWAYS, 1)
    model.load(trained_weights())
    assert model.net.set_encoder is not None
    return model.net.set_encoder


def test_an_embedding_is_the_mean_over_images_in_any_order(monkeypatch) -> None:
    one, x0 = encoder(), to_float(images(10))
    whole = one.embedding(x0)
    assert whole.shape == (5,)
    torch.testing.assert_close(whole, torch.stack([one.embedding(x[None]) for x in x0]).mean(0))
    torch.testing.assert_close(one.embedding(x0.flip(0)), whole)
    monkeypatch.setattr("spire_core.network.set_encoder.CHUNK", 3)
    torch.testing.assert_close(one.embedding(x0), whole)
    assert not torch.allclose(one.embedding(to_float(images(10, seed=1))), whole)


def test_it_starts_at_zero_and_leaves_the_other_numbers_of_the_network_alone() -> None:
    fresh, without = FlatModel(MODEL, ALWAYS, 1), replace(MODEL, set_encoder=False)
    plain = FlatModel(without, ALWAYS, 1)
    fresh.load(initial_weights(MODEL, ALWAYS, 1, 0))
    plain.load(initial_weights(without, ALWAYS, 1, 0))
    assert fresh.net.set_encoder is not None
    assert not fresh.net.set_encoder.embedding(to_float(images(3))).any()
    theirs = plain.named_tensors(plain.weights)
    ours = fresh.named_tensors(fresh.weights)
    assert {name for name in ours if name not in theirs} == {
        f"set_encoder.{layer}.{kind}"
        for layer in ("conv1", "conv2", "out")
        for kind in ("weight", "bias")
    }
    assert all(torch.equal(ours[name], number) for name, number in theirs.items())
    other = FlatModel(MODEL, MethodConfig("fedavg_ft"), 1)  # has no embedding
    assert other.net.set_encoder is None


@pytest.mark.parametrize(("episodes", "moves"), [(1.0, True), (0.0, False)])
def test_it_trains_in_episodes_alone(episodes: float, moves: bool) -> None:
    method, weights = replace(ALWAYS, episodes=episodes), trained_weights()
    model, client = FlatModel(MODEL, method, 1), ClientContext(1, 0, images(20))
    state = new_private_state(model, CONFIG, 5, 0, 1)
    more = (state, CONFIG, OBJECTIVE, RoundPlan(0, 1.0, True, tau=3))
    update, _ = train_client(model, Broadcast(weights.numpy()), client, *more)
    before, after = (model.named_tensors(w) for w in (weights, torch.from_numpy(update.weights)))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert {name for name in changed if name.startswith("set_encoder.")} == (
        {name for name in before if name.startswith("set_encoder.")} if moves else set()
    )
    assert "conv_in.weight" in changed


def fitted(config: AdaptConfig, num: int = 9) -> Adapted:
    model, client = FlatModel(MODEL, ALWAYS, 1), ClientContext(1, 0, images(num))
    start = PrivateState({CLIENT_EMB: torch.zeros(5)})
    more = (config, OBJECTIVE, lambda *_: {})
    return adapt_client(model, trained_weights(), client, start, *more)


def test_a_new_client_starts_where_its_training_images_are_put() -> None:
    emb = fitted(FIT).state.parts[CLIENT_EMB]
    torch.testing.assert_close(emb, encoder().embedding(to_float(images(9))))
    assert not fitted(replace(FIT, init="zero")).state.parts[CLIENT_EMB].abs().max() > 1e-9
    stopped = fitted(replace(FIT, early_stopping=True)).state.parts[CLIENT_EMB]
    seen, _ = split_validation(1, 9, FIT.val_fraction, 0)
    torch.testing.assert_close(stopped, encoder().embedding(to_float(images(9)[seen])))
    assert not torch.allclose(stopped, emb)


def test_clients_that_are_fitted_together_start_there_too() -> None:
    config, clients = replace(FIT, lr=0.1), [ClientContext(c, 0, images(9, c)) for c in (1, 2)]
    starts = [PrivateState({CLIENT_EMB: torch.zeros(5)}) for _ in clients]
    model = FlatModel(MODEL, ALWAYS, 1)
    observers = [lambda *_: dict[str, float]()] * 2
    both = (trained_weights(), clients, starts, config, OBJECTIVE, observers)
    for client, start, found in zip(clients, starts, adapt_embeddings(model, *both), strict=True):
        alone = adapt_client(
            model, trained_weights(), client, start, config, OBJECTIVE, lambda *_: {}
        )
        mine, theirs = (one.state.parts[CLIENT_EMB].numpy() for one in (found, alone))
        np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-5)
