"""client.prox_mu: the proximal term of FedProx, by hand and against torch's own gradients."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from spire_core.config.client import ClientConfig
from spire_core.config.diffusion import DiffusionConfig
from spire_core.config.method import MethodConfig
from spire_core.config.model import ModelConfig
from spire_core.diffusion.process import Diffusion
from spire_core.federated.client import train_client
from spire_core.federated.client_group import train_group
from spire_core.federated.messages import Broadcast, ClientUpdate, RoundPlan
from spire_core.federated.private_state import PrivateState, new_private_state
from spire_core.methods import BODY, CLIENT_EMB, EMB_PROJ, LOCAL
from spire_core.network.flat_model import FlatModel, Layout, initial_weights
from spire_core.network.grouped_layers import FlatGroup
from spire_core.network.unet import UNet
from spire_core.rng import torch_generator
from spire_core.training.context import ClientContext
from spire_core.training.fit import TrainingObjective, to_float
from spire_core.training.proximal import ProximalTerm

MODEL = ModelConfig(d_emb=5, width=8, multipliers=(1,), attention=(0,), cond_dim=16)
DIFFUSION = Diffusion.of(DiffusionConfig())
OBJECTIVE = TrainingObjective(DIFFUSION)
SEED = 3


@pytest.fixture
def float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def client(client_id: int) -> ClientContext:
    generator = torch_generator(SEED, "test_images", client_id)
    images = torch.randint(0, 256, (16, 1, 8, 8), generator=generator, dtype=torch.uint8)
    return ClientContext(client_id, SEED, images)


def start(method: MethodConfig) -> np.ndarray:
    """Weights none of which is zero, so that a gradient reaches every layer from the first step."""
    weights = initial_weights(MODEL, method, 1, SEED)
    drawn = torch.randn(weights.shape, generator=torch_generator(SEED, "perturb"))
    return (weights + 0.05 * drawn).numpy()


def trained(
    method: MethodConfig, engine: str, plan: RoundPlan, **settings: Any
) -> list[tuple[ClientUpdate, PrivateState]]:
    """A round of two clients."""
    config = ClientConfig(batch_size=8, **settings)
    group = FlatGroup(MODEL, method, 1, 2)
    states = [new_private_state(group.clients[0], config, MODEL.d_emb, SEED, c) for c in (0, 1)]
    broadcast, clients = Broadcast(start(method)), [client(0), client(1)]
    if engine == "grouped":
        return train_group(group, broadcast, clients, states, config, OBJECTIVE, plan)
    model = FlatModel(MODEL, method, 1)
    return [
        train_client(model, broadcast, own, state, config, OBJECTIVE, plan)
        for own, state in zip(clients, states, strict=True)
    ]


def moved(method: MethodConfig, update: ClientUpdate) -> float:
    return float(np.linalg.norm(update.weights - start(method)[: update.weights.size]))


def test_the_gradient_by_hand() -> None:
    """Two clients, body and projection of one weight each that are shared, and a local layer."""
    layout = Layout({BODY: slice(0, 1), EMB_PROJ: slice(1, 2), LOCAL: slice(2, 3)}, ())
    weights = torch.tensor([[1.0, 2.0, 3.0], [0.5, 4.5, 6.0]])
    term = ProximalTerm(0.5, torch.tensor([0.5, 2.5]))
    grads = torch.ones(2, 3)
    term.add_gradient(weights, grads, layout, (BODY, EMB_PROJ, LOCAL, CLIENT_EMB))
    assert grads.tolist() == [[1.25, 0.75, 1.0], [1.0, 2.0, 1.0]]
    term.add_gradient(weights, grads, layout, (EMB_PROJ, LOCAL))
    assert grads.tolist() == [[1.25, 0.5, 1.0], [1.0, 3.0, 1.0]]


@pytest.mark.usefixtures("float64")
def test_a_round_is_torchs_adam_on_the_loss_plus_the_term() -> None:
    mu, lr, num_steps = 0.7, 0.01, 4
    method = MethodConfig(name="fedavg")
    plan = RoundPlan(0, 1.0, shares_local=True, tau=num_steps)
    update = trained(method, "loop", plan, prox_mu=mu, lr=lr)[0][0]

    model = FlatModel(MODEL, method, 1)
    names = [name for name, _, _ in model.layout.names]
    net = UNet(MODEL, image_channels=1, has_embedding=False)
    net.load_state_dict(model.named_tensors(torch.tensor(start(method))))
    w = [net.get_parameter(name) for name in names]
    w_0 = [p.detach().clone() for p in w]
    adam, own, losses = torch.optim.Adam(w, lr, fused=True), client(0), []
    order, noise = own.generator("batch", 0), own.generator("noise", 0)
    batches = [b for _ in range(2) for b in torch.randperm(16, generator=order).split(8)]
    for batch in batches:
        t, eps, *_ = OBJECTIVE.draw_noise(torch.Size((8, 1, 8, 8)), None, noise)
        x0 = to_float(own.images[batch])
        loss = DIFFUSION.loss(lambda xt, t: net(xt, t, None), x0, t, eps).mean()
        term = sum(((p - p_0) ** 2).sum() for p, p_0 in zip(w, w_0, strict=True))
        adam.zero_grad()
        (loss + mu / 2 * term).backward()
        adam.step()
        losses.append(float(loss.detach()))
    expected = torch.cat([p.detach().flatten() for p in w]).numpy()
    assert np.linalg.norm(update.weights - expected) < 1e-10 * np.linalg.norm(expected)
    assert update.loss == pytest.approx(np.mean(losses), rel=1e-6)  # the denoising loss alone


@pytest.mark.parametrize("engine", ["loop", "grouped"])
@pytest.mark.parametrize(("mu", "tau"), [(0.0, 3), (9.0, 1)])
def test_without_mu_or_at_the_first_step_no_bit_changes(engine: str, mu: float, tau: int) -> None:
    """The first step starts at the broadcast weights, where the term has no gradient."""
    method, plan = MethodConfig(name="spire"), RoundPlan(0, 1.0, shares_local=True, tau=tau)
    plain, other = trained(method, engine, plan), trained(method, engine, plan, prox_mu=mu)
    for (update, state), (same, same_state) in zip(plain, other, strict=True):
        assert np.array_equal(update.weights, same.weights)
        assert update.loss == same.loss
        assert torch.equal(state.parts[CLIENT_EMB], same_state.parts[CLIENT_EMB])


@pytest.mark.parametrize("engine", ["loop", "grouped"])
@pytest.mark.parametrize(
    ("method", "part"),
    [
        (MethodConfig(name="spire"), CLIENT_EMB),
        (MethodConfig(name="shared_rep"), LOCAL),
        (MethodConfig(name="shared_rep", phases="alternate"), LOCAL),
    ],
)
def test_what_stays_with_a_client_is_not_held(method: MethodConfig, part: str, engine: str) -> None:
    """Its own part goes at least about as far as without the term; the shared weights do not."""
    plan = RoundPlan(0, 1.0, shares_local=False, tau=12)
    (free, own), (held, own_held) = (
        trained(method, engine, plan, prox_mu=mu)[0] for mu in (0.0, 1000.0)
    )
    assert moved(method, held) < 0.7 * moved(method, free)
    model = FlatModel(MODEL, method, 1)
    first = new_private_state(model, ClientConfig(), MODEL.d_emb, SEED, 0).parts
    origin = first.get(part, torch.from_numpy(start(method)[model.layout.parts[LOCAL]]))
    far, far_held = (float((state.parts[part] - origin).norm()) for state in (own, own_held))
    assert far_held > 0.7 * far
