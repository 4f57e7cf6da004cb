"""Rivals of SPIRE as special cases: at an end of a setting they are known methods, bit by bit."""

from dataclasses import replace

import pytest
import torch
from plain_mean import average

from spire_core.config.client import ClientConfig
from spire_core.config.diffusion import SAMPLER_NAMES, DiffusionConfig
from spire_core.config.method import MethodConfig
from spire_core.config.model import ModelConfig
from spire_core.config.server import ServerConfig
from spire_core.diffusion.generation import client_denoiser, draw
from spire_core.diffusion.process import Denoiser, Diffusion
from spire_core.federated.client import train_client
from spire_core.federated.messages import Broadcast, RoundPlan
from spire_core.federated.private_state import PrivateState
from spire_core.federated.server import ServerState, aggregate
from spire_core.methods import BODY, LOCAL
from spire_core.network.flat_model import FlatModel, initial_weights
from spire_core.rng import torch_generator
from spire_core.training.context import ClientContext
from spire_core.training.fit import TrainingObjective

MODEL = ModelConfig(d_emb=5, width=16, multipliers=(1,), attention=(0,), cond_dim=16)
OBJECTIVE = TrainingObjective(Diffusion.of(DiffusionConfig()))
NUM_ROUNDS, SEED = 3, 3
FEDAVG = MethodConfig("fedavg")
PRIVATE_LORA = MethodConfig("lora", share_adapter=False)
SPLIT, NEVER, ALWAYS = (MethodConfig("time_split", t0=t0, own_width=1.0) for t0 in (400, 0, 1000))


class FrozenAdapter(ClientConfig):
    """A client that trains all but its own part."""

    def rates(self, scale: float) -> dict[str, float]:
        return super().rates(scale) | {LOCAL: 0.0}


def client(client_id: int) -> ClientContext:
    generator = torch_generator(SEED, "test_images", client_id)
    images = torch.randint(0, 256, (20, 1, 8, 8), generator=generator, dtype=torch.uint8)
    return ClientContext(client_id, SEED, images)


def after_rounds(
    method: MethodConfig, config: ClientConfig, num_clients: int = 2, num_rounds: int = NUM_ROUNDS
) -> tuple[FlatModel, torch.Tensor, list[PrivateState]]:
    """Return the model, the server's weights (P,) and the clients' states after rounds of all."""
    model = FlatModel(MODEL, method, 1)
    state = ServerState.initial(initial_weights(MODEL, method, 1, SEED).numpy())
    own = [PrivateState()] * num_clients
    for round_idx in range(num_rounds):
        shares = round_idx < method.num_shared_rounds(num_rounds)
        plan, updates = RoundPlan(round_idx, 1.0, shares, tau=3), []
        for c in range(num_clients):
            fitted = (model, state.broadcast, client(c), own[c], config, OBJECTIVE, plan)
            update, own[c] = train_client(*fitted)
            updates.append(update)
        state = aggregate(state, average(updates, state.broadcast), ServerConfig())
    return model, torch.from_numpy(state.weights), own


@pytest.mark.parametrize("opt_state", ["reset", "average"])
def test_a_private_adapter_that_never_trains_is_fedavg(opt_state: str) -> None:
    settings = {"batch_size": 8, "opt_state": opt_state}
    _, expected, _ = after_rounds(FEDAVG, ClientConfig(**settings))
    model, found, states = after_rounds(PRIVATE_LORA, FrozenAdapter(**settings))
    start = initial_weights(MODEL, PRIVATE_LORA, 1, SEED)
    at = model.layout.parts[LOCAL]
    assert torch.equal(found[: at.start], expected)
    assert torch.equal(found[at], start[at])
    assert all(torch.equal(state.parts[LOCAL], start[at]) for state in states)


def test_a_private_adapter_stays_with_its_client_from_the_first_round_on() -> None:
    """Messages lack it, so the server's copy, which new clients start from, changes nothing."""
    model, weights, (one, other) = after_rounds(PRIVATE_LORA, ClientConfig(batch_size=8))
    at, start = model.layout.parts[LOCAL], initial_weights(MODEL, PRIVATE_LORA, 1, SEED)
    assert torch.equal(weights[at], start[at])
    assert not torch.equal(weights[: at.start], start[: at.start])
    assert not torch.equal(one.parts[LOCAL], other.parts[LOCAL])
    assert not any(torch.equal(state.parts[LOCAL], start[at]) for state in (one, other))


def random_split() -> tuple[FlatModel, torch.Tensor, FlatModel, FlatModel]:
    """Return a network of two, its numbers (P,), and each of the two alone; none is zero."""
    model, shared, own = (FlatModel(MODEL, of, 1) for of in (SPLIT, FEDAVG, FEDAVG))
    start = initial_weights(MODEL, SPLIT, 1, SEED)
    weights = start + 0.05 * torch.randn(start.shape, generator=torch_generator(SEED, "perturb"))
    model.load(weights)
    shared.load(weights[: shared.layout.size])
    own.load(weights[shared.layout.size :])
    return model, weights, shared, own


def test_timesteps_below_t0_are_the_clients_own() -> None:
    model, _, shared, own = random_split()
    xt = torch.randn(4, 1, 8, 8, generator=torch_generator(SEED, "xt"))
    t = torch.tensor([0, 399, 400, 999])
    with torch.no_grad():
        found, ours, theirs = (one.net(xt, t) for one in (model, own, shared))
    assert torch.equal(found, torch.cat([ours[:2], theirs[2:]]))
    assert not torch.isclose(ours, theirs).any()


@pytest.mark.parametrize("sampler", SAMPLER_NAMES)
def test_every_sampler_goes_over_from_one_to_the_other(sampler: str) -> None:
    model, _, shared, own = random_split()
    diffusion = Diffusion.of(DiffusionConfig(sampler=sampler, sample_steps=5))

    def drawn(denoise: Denoiser) -> torch.Tensor:
        return draw(denoise, diffusion, (1, 8, 8), 2, torch_generator(SEED, "draw"))

    by_hand = drawn(lambda xt, t: (own if int(t[0]) < 400 else shared).net(xt, t))
    assert torch.equal(drawn(client_denoiser(model.net, None)), by_hand)
    assert not torch.equal(drawn(client_denoiser(shared.net, None)), by_hand)


@pytest.mark.parametrize("opt_state", ["reset", "average"])
def test_without_timesteps_of_its_own_a_client_is_one_of_fedavg(opt_state: str) -> None:
    config = ClientConfig(batch_size=8, opt_state=opt_state)
    _, expected, _ = after_rounds(FEDAVG, config)
    model, found, states = after_rounds(NEVER, config)
    at, start = model.layout.parts[LOCAL], initial_weights(MODEL, NEVER, 1, SEED)
    assert torch.equal(found[: at.start], expected)
    assert all(torch.equal(state.parts[LOCAL], start[at]) for state in states)


def test_with_all_timesteps_of_its_own_a_client_trains_alone() -> None:
    """A network of the shared one's size, after a round, is that of `local` from the same start."""
    start = initial_weights(MODEL, FEDAVG, 1, SEED)
    config, plan = ClientConfig(batch_size=8), RoundPlan(0, 1.0, shares_local=False, tau=3)
    rest = (client(0), PrivateState(), config, OBJECTIVE, plan)
    handed = Broadcast(torch.cat([start, start]).numpy())
    local, split = (FlatModel(MODEL, of, 1) for of in (MethodConfig("local"), ALWAYS))
    expected, _ = train_client(local, Broadcast(start.numpy()), *rest)
    update, state = train_client(split, handed, *rest)
    assert torch.equal(state.parts[LOCAL], torch.from_numpy(expected.weights))
    assert not torch.equal(state.parts[LOCAL], start)
    assert torch.equal(torch.from_numpy(update.weights), start)


def test_steps_of_the_own_network_alone_draw_its_timesteps() -> None:
    few, shape = replace(OBJECTIVE, below=40), torch.Size((64, 1, 8, 8))
    for parts, count in (((LOCAL,), 40), ((BODY, LOCAL), 1000)):
        noise = few.of_parts(parts).draw_noise(shape, None, torch_generator(SEED, "noise"))
        assert count / 2 < noise.t.max() < count
        assert len(noise.t.unique()) > 20
