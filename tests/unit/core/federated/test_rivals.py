"""Rivals of SPIRE as special cases: at an end of a setting they are known methods, bit by bit."""

import pytest
import torch
from plain_mean import average

from spire_core.config.client import ClientConfig
from spire_core.config.diffusion import DiffusionConfig
from spire_core.config.method import MethodConfig
from spire_core.config.model import ModelConfig
from spire_core.config.server import ServerConfig
from spire_core.diffusion.process import Diffusion
from spire_core.federated.client import train_client
from spire_core.federated.messages import RoundPlan
from spire_core.federated.private_state import PrivateState
from spire_core.federated.server import ServerState, aggregate
from spire_core.methods import LOCAL
from spire_core.network.flat_model import FlatModel, initial_weights
from spire_core.rng import torch_generator
from spire_core.training.context import ClientContext
from spire_core.training.fit import TrainingObjective

MODEL = ModelConfig(d_emb=5, width=16, multipliers=(1,), attention=(0,), cond_dim=16)
OBJECTIVE = TrainingObjective(Diffusion.of(DiffusionConfig()))
NUM_ROUNDS, SEED = 3, 3
PRIVATE_LORA = MethodConfig("lora", share_adapter=False)


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
    _, expected, _ = after_rounds(MethodConfig("fedavg"), ClientConfig(**settings))
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
