"""A method's penalty: FedProx's term written as one gives what `client.prox_mu` gives."""

import numpy as np
import pytest
import torch
from torch import Tensor

from spire_core.config.client import ClientConfig
from spire_core.config.diffusion import DiffusionConfig
from spire_core.config.method import OTHER_METHODS, MethodConfig
from spire_core.config.model import ModelConfig
from spire_core.diffusion.process import Diffusion
from spire_core.federated.client import train_client
from spire_core.federated.client_group import train_group
from spire_core.federated.messages import Broadcast, RoundPlan
from spire_core.federated.private_state import new_private_state
from spire_core.methods import BODY, CLIENT_EMB, LOCAL, NETWORK_PARTS, Method
from spire_core.network.flat_model import FlatModel, Layout, initial_weights
from spire_core.network.grouped_layers import FlatGroup
from spire_core.rng import torch_generator
from spire_core.training.context import ClientContext
from spire_core.training.fit import TrainingObjective
from spire_core.training.penalty import Penalty

MODEL = ModelConfig(d_emb=5, width=8, multipliers=(1, 2), attention=(1,), cond_dim=16)
OBJECTIVE = TrainingObjective(Diffusion.of(DiffusionConfig()))
MU = 4.0


def proximal(w: Tensor, w_0: Tensor) -> Tensor:
    return MU / 2 * (w - w_0).square().sum(-1)


@pytest.fixture
def both(monkeypatch: pytest.MonkeyPatch) -> MethodConfig:
    monkeypatch.setattr(OTHER_METHODS, "_found", {})
    parts = {"has_embedding": True, "has_local_layers": True}
    method = Method("both_held", (CLIENT_EMB, LOCAL), 1e-3, 1e-3, **parts, penalty=proximal)
    OTHER_METHODS.register("both_held", method, "1")
    free = Method("both_free", (CLIENT_EMB, LOCAL), 1e-3, 1e-3, **parts)
    OTHER_METHODS.register("both_free", free, "1")
    return MethodConfig("both_held")


def weights_after(method: MethodConfig, engine: str, prox_mu: float) -> list[np.ndarray]:
    """The shared weights of two clients after three steps."""
    config, seed = ClientConfig(batch_size=8, prox_mu=prox_mu), 3
    generator = torch_generator(seed, "test_images", 0)
    images = torch.randint(0, 256, (16, 1, 8, 8), generator=generator, dtype=torch.uint8)
    clients = [ClientContext(c, seed, images) for c in (0, 1)]
    group, model = FlatGroup(MODEL, method, 1, 2), FlatModel(MODEL, method, 1)
    states = [new_private_state(model, config, MODEL.d_emb, seed, c) for c in (0, 1)]
    broadcast = Broadcast(initial_weights(MODEL, method, 1, seed).numpy())
    plan = RoundPlan(0, 1.0, shares_local=False, tau=3)
    if engine == "grouped":
        found = train_group(group, broadcast, clients, states, config, OBJECTIVE, plan)
    else:
        more = (config, OBJECTIVE, plan)
        pairs = zip(clients, states, strict=True)
        found = [train_client(model, broadcast, own, state, *more) for own, state in pairs]
    return [update.weights for update, _ in found]


@pytest.mark.parametrize("engine", ["loop", "grouped"])
def test_it_is_the_proximal_term_if_it_says_the_same(both: MethodConfig, engine: str) -> None:
    own = weights_after(both, engine, 0.0)
    free = MethodConfig("both_free")
    ours, without = weights_after(free, engine, MU), weights_after(free, engine, 0.0)
    for penalised, proximal_one, plain in zip(own, ours, without, strict=True):
        difference = np.linalg.norm(penalised - proximal_one)
        assert difference < 1e-3 * np.linalg.norm(proximal_one - plain)


@pytest.mark.parametrize(("turns", "steps"), [("joint", (3, 3, 3)), ("alternate", (1, 1, 2))])
def test_local_layers_and_an_embedding_train_in_one_method(
    both: MethodConfig, turns: str, steps: tuple[int, ...]
) -> None:
    """The steps of the embedding, of the shared weights and of the local layers."""
    config = ClientConfig(batch_size=8, opt_state="average")
    model = FlatModel(MODEL, MethodConfig(both.name, phases=turns), 1)
    broadcast = Broadcast(initial_weights(MODEL, both, 1, 3).numpy())
    client = ClientContext(0, 3, torch.zeros(16, 1, 8, 8, dtype=torch.uint8))
    state = new_private_state(model, config, MODEL.d_emb, 3, 0)
    plan = RoundPlan(0, 1.0, shares_local=False, tau=3)
    update, after = train_client(model, broadcast, client, state, config, OBJECTIVE, plan)
    assert update.moments is not None
    own = tuple(int(after.moments[part].step) for part in (CLIENT_EMB, LOCAL))
    assert (own[0], int(update.moments.steps[NETWORK_PARTS.index(BODY)]), own[1]) == steps
    before = broadcast.weights[model.layout.parts[LOCAL]]
    assert (after.parts[LOCAL].numpy() != before).any()
    assert update.num_steps == 3


def test_the_gradient_of_each_client_by_hand() -> None:
    layout = Layout({CLIENT_EMB: slice(0, 1), LOCAL: slice(1, 2)}, ())
    grads = torch.ones(2, 2)
    weights = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    Penalty(proximal, torch.tensor([0.5])).add_gradient(weights, grads, layout, (CLIENT_EMB, LOCAL))
    assert grads.tolist() == [[3.0, 1.0], [11.0, 1.0]]
