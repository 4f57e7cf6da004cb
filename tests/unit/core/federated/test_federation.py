"""Exactness of local training and aggregation: special cases equal known things, bit by bit."""

import numpy as np
import pytest
import torch
from plain_mean import average

from spire_core.config.client import ClientConfig
from spire_core.config.diffusion import DiffusionConfig
from spire_core.config.method import MethodConfig
from spire_core.config.model import ModelConfig
from spire_core.config.server import ServerConfig
from spire_core.diffusion.process import Diffusion, sample_timesteps
from spire_core.errors import DivergenceError
from spire_core.federated.client import start_client, train_client
from spire_core.federated.messages import ClientUpdate, RoundPlan
from spire_core.federated.private_state import PrivateState, new_private_state
from spire_core.federated.server import ServerState, aggregate
from spire_core.methods import BODY, LOCAL, NETWORK_PARTS
from spire_core.network.flat_model import FlatModel, initial_weights
from spire_core.network.unet import UNet
from spire_core.rng import torch_generator
from spire_core.training.context import ClientContext
from spire_core.training.fit import TrainingObjective, to_float

MODEL = ModelConfig(d_emb=5, width=8, multipliers=(1,), attention=(0,), cond_dim=16)
DIFFUSION = Diffusion.of(DiffusionConfig(t_power=0.6))
SEED = 3


def after_round(
    state: ServerState, updates: list[ClientUpdate], config: ServerConfig
) -> ServerState:
    return aggregate(state, average(updates, state.broadcast), config)


def objective(config: ClientConfig) -> TrainingObjective:
    return TrainingObjective(DIFFUSION, config.emb_dropout)


def client_images(client_id: int, count: int = 20) -> torch.Tensor:
    generator = torch_generator(SEED, "test_images", client_id)
    return torch.randint(0, 256, (count, 1, 8, 8), generator=generator, dtype=torch.uint8)


def client(client_id: int) -> ClientContext:
    return ClientContext(client_id, SEED, client_images(client_id))


def run_rounds(
    method: str,
    config: ClientConfig,
    clients: list[int],
    num_rounds: int,
    order: int = 1,
    num_shared: int | None = None,
):
    """A plain federated loop over all clients; returns model, server's state and the clients'.

    `num_shared`: the rounds in which local layers are averaged, if not as many as the method's.
    """
    chosen = MethodConfig(name=method)
    num_shared = chosen.num_shared_rounds(num_rounds) if num_shared is None else num_shared
    model = FlatModel(MODEL, chosen, image_channels=1)
    state = ServerState.initial(initial_weights(MODEL, chosen, 1, SEED).numpy())
    private = {c: new_private_state(model, config, MODEL.d_emb, SEED, c) for c in clients}
    for round_idx in range(num_rounds):
        plan = RoundPlan(round_idx, 1.0, round_idx < num_shared, tau=3)
        updates = []
        for c in clients[::order]:
            update, private[c] = train_client(
                model, state.broadcast, client(c), private[c], config, objective(config), plan
            )
            updates.append(update)
        state = after_round(state, updates, ServerConfig())
    return model, state, private


def test_one_client_fedavg_is_plain_training() -> None:
    """A federation of one is torch's own Adam on the plain U-Net, bit for bit."""
    num_rounds = 3
    config = ClientConfig(batch_size=8, opt_state="average")
    model, state, _ = run_rounds("fedavg", config, [0], num_rounds)

    torch.manual_seed(0)
    plain = UNet(MODEL, image_channels=1, has_embedding=False)
    start = FlatModel(MODEL, MethodConfig(name="fedavg"), 1)
    weights = initial_weights(MODEL, MethodConfig(name="fedavg"), 1, SEED)
    plain.load_state_dict(start.named_tensors(weights))
    optimizer = torch.optim.Adam(plain.parameters(), lr=config.lr, fused=True)
    images = to_float(client_images(0))
    for round_idx in range(num_rounds):
        order = torch_generator(SEED, "batch", 0, round_idx)
        noise = torch_generator(SEED, "noise", 0, round_idx)
        for batch in torch.randperm(20, generator=order).split(8):
            x0 = images[batch]
            t = sample_timesteps(len(x0), 1000, DIFFUSION.config.t_power, noise)
            eps = torch.randn(x0.shape, generator=noise)
            optimizer.zero_grad()
            DIFFUSION.loss(plain, x0, t, eps).mean().backward()
            optimizer.step()
    trained = model.flatten(plain.state_dict())
    assert torch.equal(trained, torch.from_numpy(state.weights))
    assert not torch.equal(trained, weights)


@pytest.mark.parametrize("method", ["spire", "fedavg", "shared_rep"])
@pytest.mark.parametrize("opt_state", ["reset", "average"])
def test_order_of_clients_changes_nothing(method: str, opt_state: str) -> None:
    config = ClientConfig(batch_size=8, emb_dropout=0.2, opt_state=opt_state)
    _, forward, private = run_rounds(method, config, [0, 1, 2], 2)
    _, backward, private_backward = run_rounds(method, config, [0, 1, 2], 2, order=-1)
    np.testing.assert_array_equal(forward.weights, backward.weights)
    np.testing.assert_array_equal(forward.ema, backward.ema)
    for c in private:
        kept, kept_backward = private[c].to_tensors(), private_backward[c].to_tensors()
        assert kept.keys() == kept_backward.keys()
        assert all(torch.equal(kept[k], kept_backward[k]) for k in kept)


def update(client_id: int, num_examples: int, values: list[float]) -> ClientUpdate:
    return ClientUpdate(client_id, num_examples, 1, 0.0, np.array(values, dtype=np.float32))


def test_aggregate_by_hand() -> None:
    """(1 * 2 + 3 * 6) / 4 = 5 and (1 * 4 + 3 * 0) / 4 = 1."""
    state = ServerState.initial(np.zeros(2, dtype=np.float32))
    updates = [update(1, 3, [6.0, 0.0]), update(0, 1, [2.0, 4.0])]
    after = after_round(state, updates, ServerConfig(ema=0.0))
    np.testing.assert_array_equal(after.weights, np.array([5.0, 1.0], dtype=np.float32))
    np.testing.assert_array_equal(after.ema, after.weights)
    assert after.round_idx == 1
    halfway = after_round(state, updates, ServerConfig(lr=0.5))
    np.testing.assert_array_equal(halfway.weights, np.array([2.5, 0.5], dtype=np.float32))


@pytest.mark.parametrize("optimizer", ["fedavgm", "fedadam"])
def test_a_server_step_out_of_all_bounds_is_one_sentence(optimizer: str) -> None:
    config = ServerConfig(optimizer=optimizer, lr=1000.0)
    state = ServerState(0, *np.zeros((2, 2), dtype=np.float32), velocity=np.full(2, 1e38))
    with pytest.raises(DivergenceError, match=r"finite weights .* in round 0: lower server\.lr"):
        after_round(state, [update(0, 1, [1e3, 0.0])], config)


def test_local_layers_stay_with_their_clients() -> None:
    config = ClientConfig(batch_size=8)
    model, state, private = run_rounds("shared_rep", config, [0, 1], 4)
    local = model.layout.parts[LOCAL]
    assert not torch.equal(private[0].parts[LOCAL], private[1].parts[LOCAL])
    halfway = run_rounds("shared_rep", config, [0, 1], 2, num_shared=2)[1]
    # From the middle on the server's copy of the local layers stands still, and updates do not
    # carry them.
    np.testing.assert_array_equal(state.weights[local], halfway.weights[local])
    plan = RoundPlan(9, 1.0, shares_local=False, tau=1)
    sent, _ = train_client(
        model, state.broadcast, client(0), private[0], config, objective(config), plan
    )
    assert sent.weights.size == model.layout.num_without_local


def test_how_far_private_layers_have_come_stays_private() -> None:
    """Beside the last moments that were averaged the server keeps the step count of these."""
    config, part = ClientConfig(batch_size=8), NETWORK_PARTS.index(LOCAL)
    _, halfway, _ = run_rounds("shared_rep", config, [0, 1], 2, num_shared=2)
    _, state, private = run_rounds("shared_rep", config, [0, 1], 4)
    assert halfway.moments is not None
    assert state.moments is not None
    before, after = halfway.moments.steps, state.moments.steps
    assert after[part] == before[part]
    assert (np.delete(after, part) > np.delete(before, part)).any()
    assert private[0].moments[LOCAL].step > before[part]


def test_layers_that_are_local_from_the_first_round_on_start_without_moments() -> None:
    """A client that joins later has none of its own, and the server never had any."""
    config = ClientConfig(batch_size=8)
    model, state, _ = run_rounds("shared_rep", config, [0, 1], 1, num_shared=0)
    assert state.moments is not None
    assert state.moments.exp_avg.size == model.layout.num_without_local < state.weights.size
    fresh = new_private_state(model, config, MODEL.d_emb, SEED, 2)
    plan = RoundPlan(1, 1.0, False, tau=3)
    run = start_client(model, state.broadcast, client(2), fresh, config, plan)
    assert set(run.moments) == {BODY}
    assert all(m.exp_avg.numel() == model.layout.part_size(part) for part, m in run.moments.items())
    _, later, _ = run_rounds("shared_rep", config, [0, 1], 3, num_shared=0)
    assert np.isfinite(later.weights).all()


@pytest.mark.parametrize("optimizer", ["fedavgm", "fedadam"])
def test_what_is_no_longer_shared_stays_whatever_the_servers_momentum(optimizer: str) -> None:
    config = ServerConfig(optimizer=optimizer)
    state = ServerState.initial(np.zeros(4, dtype=np.float32))
    state = after_round(state, [ClientUpdate(0, 1, 1, 0.0, np.ones(4, dtype=np.float32))], config)
    kept = state.weights[2:].copy()
    assert (kept > 0).all()
    for _ in range(3):
        half = [ClientUpdate(0, 1, 1, 0.0, state.weights[:2] + 1)]
        moved = after_round(state, half, config)
        assert (moved.weights[:2] > state.weights[:2]).all()
        np.testing.assert_array_equal(moved.weights[2:], kept)
        state = moved


def test_alternate_phases_share_a_clients_steps_among_them() -> None:
    """Of three steps the local part takes two and the shared part one, which moves it."""
    chosen = MethodConfig(name="shared_rep", phases="alternate")
    model = FlatModel(MODEL, chosen, 1)
    weights = initial_weights(MODEL, chosen, 1, SEED).numpy()
    config = ClientConfig(batch_size=8)
    plan = RoundPlan(0, 1.0, shares_local=True, tau=3)
    broadcast = ServerState.initial(weights).broadcast
    sent, _ = train_client(
        model, broadcast, client(0), PrivateState(), config, objective(config), plan
    )
    assert sent.moments is not None
    np.testing.assert_array_equal(sent.moments.steps, [1, 0, 0, 2])  # two parts are empty
    assert not np.array_equal(
        sent.weights[model.layout.parts[BODY]], weights[: -model.layout.part_size(LOCAL)]
    )
