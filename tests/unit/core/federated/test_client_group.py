"""Clients trained as a group: the same numbers as one after the other."""

import functools
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
from spire_core.federated.messages import AdamMoments, Broadcast, ClientUpdate, RoundPlan
from spire_core.federated.private_state import PrivateState, new_private_state
from spire_core.network.flat_model import FlatModel, initial_weights
from spire_core.network.grouped_layers import FlatGroup
from spire_core.rng import torch_generator
from spire_core.training.context import ClientContext
from spire_core.training.fit import TrainingObjective

MODEL = ModelConfig(d_emb=5, width=8, multipliers=(1, 2), attention=(1,), cond_dim=16)
SEED = 3
SIZES = (12, 9, 16, 3, 5)  # of the clients' data: unequal last batches, and steps in an epoch

WORDS = ModelConfig(**{**vars(MODEL), "text": "words", "words": tuple("abcd")})

Finished = list[tuple[ClientUpdate, PrivateState]]


@pytest.fixture
def float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def client_images(client_id: int) -> torch.Tensor:
    generator = torch_generator(SEED, "test_images", client_id)
    shape = (SIZES[client_id], 1, 8, 8)
    return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)


def client_tokens(client_id: int) -> torch.Tensor:
    """Captions of up to three words out of four."""
    generator = torch_generator(SEED, "test_tokens", client_id)
    return torch.randint(0, 5, (SIZES[client_id], 3), generator=generator)


def start(method: MethodConfig, network: ModelConfig = MODEL) -> np.ndarray:
    """Weights none of which is zero, so that a gradient reaches every layer from the first step."""
    weights = initial_weights(network, method, 1, SEED)
    drawn = torch.randn(weights.shape, generator=torch_generator(SEED, "perturb"))
    return (weights + 0.05 * drawn).numpy()


@functools.cache
def two_rounds(
    method: MethodConfig,
    opt_state: str,
    group_size: int,
    network: ModelConfig = MODEL,
    **plan: Any,
) -> Finished:
    """Two rounds of all clients, with the plain mean between them; group_size 0 is the loop."""
    config = ClientConfig(batch_size=8, emb_dropout=0.2, opt_state=opt_state)
    objective = TrainingObjective(
        Diffusion.of(DiffusionConfig()), config.emb_dropout, text_dropout=0.3
    )
    ids = list(range(len(SIZES)))
    model, group = FlatModel(network, method, 1), FlatGroup(network, method, 1, group_size)
    tokens = [client_tokens(c) if network.text == "words" else None for c in ids]
    clients = [ClientContext(c, SEED, client_images(c), tokens[c]) for c in ids]
    states = [new_private_state(model, config, MODEL.d_emb, SEED, c) for c in ids]
    broadcast, finished = Broadcast(start(method, network)), []
    for round_idx in range(2):
        told = RoundPlan(round_idx, 0.5, shares_local=round_idx == 0, **plan)
        run = (config, objective, told)
        if group_size == 0:
            finished = [train_client(model, broadcast, clients[c], states[c], *run) for c in ids]
        else:
            cuts = [slice(c, c + group_size) for c in ids[::group_size]]
            finished = [
                result
                for at in cuts
                for result in train_group(group, broadcast, clients[at], states[at], *run)
            ]
        states = [state for _, state in finished]
        broadcast = mean([update for update, _ in finished])
    return finished


def mean(updates: list[ClientUpdate]) -> Broadcast:
    """The plain mean, at full precision."""
    weights = np.mean([u.weights for u in updates], axis=0)
    sent = [u.moments.arrays for u in updates if u.moments is not None]
    means = [np.mean(arrays, axis=0) for arrays in zip(*sent, strict=True)]
    return Broadcast(weights, AdamMoments(*means) if means else None)


def numbers(update: ClientUpdate) -> dict[str, np.ndarray]:
    """All arrays of an update by name."""
    return {"weights": update.weights} | (vars(update.moments) if update.moments else {})


def assert_close(found: Finished, expected: Finished, tolerance: float) -> None:
    """Relative to the norm, since Adam divides every gradient by its own size, also one that is
    mere rounding (of a bias before a normalisation). What follows from it is ten times as far off.
    """
    for (update, state), (other, other_state) in zip(found, expected, strict=True):
        for name in ("client_id", "num_examples", "num_steps"):
            assert getattr(update, name) == getattr(other, name)
        assert update.loss == pytest.approx(other.loss, rel=tolerance)
        mine = state.to_tensors() | numbers(update)
        theirs = other_state.to_tensors() | numbers(other)
        assert mine.keys() == theirs.keys()
        for name, value in theirs.items():
            allowed = (1 if name == "weights" else 10) * tolerance * np.linalg.norm(value)
            assert np.linalg.norm(np.asarray(mine[name]) - np.asarray(value)) <= allowed, name


def case(
    method: str, phases: str = "joint", opt_state: str = "average", marks: Any = (), **plan: Any
) -> Any:
    chosen, sizes = MethodConfig(name=method, phases=phases), {"reset": (2,), "average": (1, 2, 5)}
    name = "-".join((method, phases, opt_state, *plan))
    return pytest.param(chosen, plan, opt_state, sizes[opt_state], id=name, marks=marks)


CASES = [
    case("spire", tau=3),
    case("spire", opt_state="reset", marks=pytest.mark.slow, tau=3),
    case("spire", local_epochs=2),
    case("fedavg", marks=pytest.mark.slow, local_epochs=1),
    case("shared_rep", marks=pytest.mark.slow, local_epochs=2),
    case("shared_rep", phases="alternate", local_epochs=2),
    case("time_split", phases="alternate", opt_state="reset", tau=3),
]


@pytest.mark.parametrize(("method", "plan", "opt_state", "sizes"), CASES)
@pytest.mark.usefixtures("float64")
def test_groups_are_their_clients_one_after_the_other(
    method: MethodConfig, plan: dict[str, Any], opt_state: str, sizes: tuple[int, ...]
) -> None:
    """Batches and numbers of steps differ within groups: equal to 1e-10 in double precision."""
    loop = two_rounds(method, opt_state, 0, **plan)
    for group_size in sizes:
        assert_close(two_rounds(method, opt_state, group_size, **plan), loop, 1e-10)


@pytest.mark.usefixtures("float64")
def test_groups_with_captions_are_their_clients_one_after_the_other() -> None:
    method = MethodConfig("spire")
    loop = two_rounds(method, "average", 0, network=WORDS, tau=3)
    assert_close(two_rounds(method, "average", 2, network=WORDS, tau=3), loop, 1e-10)
    before, after = start(method, WORDS), loop[0][0].weights
    layout = FlatModel(WORDS, method, 1).layout
    tables = [slice(at, at + shape.numel()) for name, at, shape in layout.names if "text." in name]
    assert len(tables) == 5
    assert all(np.abs(after[at] - before[at]).max() > 0 for at in tables)


def test_a_grouped_network_is_the_networks_side_by_side() -> None:
    """Every resolution level attends, images are not folded, and fewer clients come than fit."""
    model = ModelConfig(
        d_emb=5, width=8, multipliers=(1, 2), attention=(0, 1), cond_dim=16, space_to_depth=1
    )
    chosen = MethodConfig(name="spire")
    group, generator = FlatGroup(model, chosen, 3, num_clients=4), torch_generator(SEED, "inputs")
    group.weights.copy_(0.1 * torch.randn(group.weights.shape, generator=generator))
    x = torch.randn(2, 3, 3, 8, 8, generator=generator)
    t = torch.randint(0, 1000, (2, 3), generator=generator)
    emb = torch.randn(2, 3, 5, generator=generator)
    together = group.net(x, t, emb)
    for k in range(3):
        plain = FlatModel(model, chosen, 3)
        plain.load(group.weights[k])
        alone = plain.net(x[:, k], t[:, k], emb[:, k])
        torch.testing.assert_close(together[:, k], alone, rtol=1e-4, atol=1e-5)
