"""Episodes: which rounds and images they have, and what a client keeps of them."""

import numpy as np
import pytest
import torch

from spire_core.config.client import ClientConfig
from spire_core.config.diffusion import DiffusionConfig
from spire_core.config.method import MethodConfig
from spire_core.config.model import ModelConfig
from spire_core.diffusion.process import Diffusion
from spire_core.federated.client import start_client, train_client
from spire_core.federated.episodes import episode_of
from spire_core.federated.messages import Broadcast, RoundPlan
from spire_core.federated.private_state import PrivateState, new_private_state
from spire_core.methods import CLIENT_EMB
from spire_core.network.flat_model import FlatModel, initial_weights
from spire_core.training.context import ClientContext
from spire_core.training.fit import TrainingObjective

MODEL = ModelConfig(d_emb=5, width=8, multipliers=(1, 2), attention=(), cond_dim=16)
CONFIG = ClientConfig(batch_size=8, emb_first_steps=2, opt_state="keep")
OBJECTIVE = TrainingObjective(Diffusion.of(DiffusionConfig()), CONFIG.betas)
IMAGES = torch.arange(100, dtype=torch.uint8)[:, None, None, None].expand(100, 1, 8, 8)


def client(client_id: int = 1) -> ClientContext:
    return ClientContext(client_id, 0, IMAGES)


def sizes(share: float, client_id: int = 1) -> list[int]:
    """The number of images in each of 1000 rounds, 0 where the round is no episode."""
    method = MethodConfig("spire", episodes=share)
    found = (episode_of(client(client_id), method, round_idx) for round_idx in range(1000))
    return [0 if one is None else len(one.images) for one in found]


def test_so_many_rounds_are_episodes_of_any_number_of_images() -> None:
    """Within four standard deviations of 500 rounds, and of 250 with fewer than 10 images."""
    half = np.array(sizes(0.5))
    assert abs(int((half > 0).sum()) - 500) < 64
    assert abs(int(((half > 0) & (half < 10)).sum()) - 250) < 55
    assert half.max() <= 100
    assert half.tolist() == sizes(0.5) != sizes(0.5, client_id=2)
    assert min(sizes(1.0)) == 1
    assert max(sizes(0.0)) == 0


def test_an_episode_has_different_images_of_the_client() -> None:
    found = episode_of(client(), MethodConfig("spire", episodes=1.0), 3)
    assert found is not None
    values = found.images[:, 0, 0, 0].tolist()
    assert len(set(values)) == len(values)


def test_methods_without_an_embedding_have_none() -> None:
    assert episode_of(client(), MethodConfig("fedavg", episodes=1.0), 3) is None


def round_of(share: float, round_idx: int = 0) -> tuple[np.ndarray, PrivateState, PrivateState]:
    """The sent weights, and the private states before and after; the embedding has moments."""
    method = MethodConfig("spire", episodes=share)
    model, plan = FlatModel(MODEL, method, 1), RoundPlan(round_idx, 1.0, True, tau=3)
    weights = initial_weights(MODEL, method, 1, 0) + 0.02
    broadcast, plain = Broadcast(weights.numpy()), FlatModel(MODEL, MethodConfig("spire"), 1)
    state = new_private_state(model, CONFIG, MODEL.d_emb, 0, 1)
    more = (CONFIG, OBJECTIVE, plan)
    _, state = train_client(plain, broadcast, client(), state, *more)
    update, after = train_client(model, broadcast, client(), state, *more)
    assert (update.num_examples, update.num_steps) == (100, 5)
    return update.weights, state, after


def test_the_clients_own_embedding_stays_as_it_was() -> None:
    weights, before, after = round_of(1.0)
    assert torch.equal(after.parts[CLIENT_EMB], before.parts[CLIENT_EMB])
    mine, theirs = after.moments[CLIENT_EMB], before.moments[CLIENT_EMB]
    assert torch.equal(mine.exp_avg, theirs.exp_avg)
    assert float(mine.step) == float(theirs.step) == 5
    assert float(after.moments["body"].step) == 6  # of both rounds
    plain, _, other = round_of(0.0)
    assert np.abs(weights - plain).max() > 1e-4
    assert not torch.equal(other.parts[CLIENT_EMB], before.parts[CLIENT_EMB])


@pytest.mark.parametrize("round_idx", range(3))
def test_an_episode_starts_at_zero_and_its_few_images_fill_batches(round_idx: int) -> None:
    method = MethodConfig("spire", episodes=1.0)
    model, plan = FlatModel(MODEL, method, 1), RoundPlan(round_idx, 1.0, True, tau=3)
    broadcast = Broadcast(initial_weights(MODEL, method, 1, 0).numpy())
    state = new_private_state(model, CONFIG, MODEL.d_emb, 0, 1)
    run = start_client(model, broadcast, client(), state, CONFIG, plan)
    assert run.client_emb is not None
    assert not run.client_emb.any()
    assert CLIENT_EMB not in run.moments
    subset = episode_of(client(), method, round_idx)
    assert subset is not None
    num_images, seen = len(subset.images), [batch.images for batch in run.batches]
    assert set(torch.cat(seen)[:, 0, 0, 0].tolist()) <= set(subset.images[:, 0, 0, 0].tolist())
    if num_images <= 8:
        assert {len(images) for images in seen} == {num_images * (8 // num_images)}
