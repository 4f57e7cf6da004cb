"""Embeddings computed from a client's messages: what the default hides, and what it does not."""

import functools

import numpy as np
import torch
from plain_mean import average

from spire_core.config.client import ClientConfig
from spire_core.config.diffusion import DiffusionConfig
from spire_core.config.method import MethodConfig
from spire_core.config.model import ModelConfig
from spire_core.config.server import ServerConfig
from spire_core.diffusion.process import Diffusion
from spire_core.federated.client import train_client
from spire_core.federated.messages import Broadcast, ClientUpdate, RoundPlan
from spire_core.federated.private_state import PrivateState, new_private_state
from spire_core.federated.server import ServerState, aggregate
from spire_core.methods import BODY, EMB_PROJ, MODULATION, NETWORK_PARTS
from spire_core.network.flat_model import FlatModel, initial_weights
from spire_core.privacy.leak import abs_cos, gradients_in_moment, span_shares, top_direction
from spire_core.rng import torch_generator
from spire_core.training.adam import BETAS
from spire_core.training.context import ClientContext
from spire_core.training.fit import TrainingObjective

MODEL = ModelConfig(d_emb=32, width=8, multipliers=(1, 2), attention=(), cond_dim=32)
METHOD, SEED, TAU, CLIENTS = MethodConfig("spire"), 3, 3, range(3)
PARTS = FlatModel(MODEL, METHOD, 1).layout.parts
AT, PRIVATE = PARTS[EMB_PROJ], slice(PARTS[MODULATION].start, PARTS[EMB_PROJ].stop)


def images(client_id: int) -> ClientContext:
    generator = torch_generator(SEED, "test_images", client_id)
    drawn = torch.randint(0, 256, (16, 1, 8, 8), generator=generator, dtype=torch.uint8)
    return ClientContext(client_id, SEED, drawn)


@functools.cache
def second_round(config: ClientConfig) -> tuple[Broadcast, list[tuple[ClientUpdate, PrivateState]]]:
    """The broadcast and the answers of a round that another one precedes."""
    model = FlatModel(MODEL, METHOD, 1)
    objective = TrainingObjective(Diffusion.of(DiffusionConfig()))
    weights = initial_weights(MODEL, METHOD, 1, SEED)
    weights += 0.05 * torch.randn(weights.shape, generator=torch_generator(SEED, "perturb"))
    state = ServerState.initial(weights.numpy())
    private = {c: new_private_state(model, config, MODEL.d_emb, SEED, c) for c in CLIENTS}
    finished: list[tuple[ClientUpdate, PrivateState]] = []
    broadcast = state.broadcast
    for round_idx in range(2):
        broadcast = state.broadcast
        plan = RoundPlan(round_idx, 1.0, shares_local=False, tau=TAU)
        finished = [
            train_client(model, broadcast, images(c), private[c], config, objective, plan)
            for c in CLIENTS
        ]
        private = {update.client_id: after for update, after in finished}
        updates = [update for update, _ in finished]
        state = aggregate(state, average(updates, broadcast), ServerConfig())
    return broadcast, finished


def recovered(config: ClientConfig) -> list[float]:
    """The |cos| of each client's embedding and the direction in the moments of its message."""
    broadcast, finished = second_round(config)
    found = []
    for update, after in finished:
        assert update.moments is not None
        assert broadcast.moments is not None
        assert after.client_emb is not None
        before = broadcast.moments.exp_avg
        gradients = gradients_in_moment(update.moments.exp_avg, before, BETAS[0] ** TAU)
        direction = top_direction(gradients[AT].reshape(MODEL.cond_dim, MODEL.d_emb))
        found.append(abs_cos(direction, after.client_emb.double().numpy()))
    return found


def test_moments_that_are_sent_are_the_embedding() -> None:
    """The old form of messages, which a setting brings back."""
    assert min(recovered(ClientConfig(batch_size=8, private_moments="none"))) >= 0.99


def test_by_default_no_moment_shows_the_embedding() -> None:
    """This fails if the leak returns: no moment of a layer that reads the embedding is sent."""
    assert recovered(ClientConfig(batch_size=8)) == [0.0] * len(CLIENTS)
    broadcast, finished = second_round(ClientConfig(batch_size=8))
    assert broadcast.moments is not None
    sent = [update.moments for update, _ in finished]
    for moments in (broadcast.moments, *sent):
        assert moments is not None
        assert not moments.exp_avg[PRIVATE].any()
        assert not moments.exp_avg_sq[PRIVATE].any()
        assert moments.exp_avg[: PRIVATE.start].any()
        steps = dict(zip(NETWORK_PARTS, moments.steps, strict=True))
        assert steps[BODY] > steps[MODULATION] == steps[EMB_PROJ] == 0


def test_private_moments_start_every_round_afresh() -> None:
    """The body continues with averaged moments; layers that read the embedding start afresh."""
    average, reset = (ClientConfig(batch_size=8, opt_state=s) for s in ("average", "reset"))
    for _, kept in second_round(average)[1]:
        assert not {MODULATION, EMB_PROJ} & kept.moments.keys()  # nor do they stay with the client
    (_, first), (_, fresh) = second_round(average), second_round(reset)
    body = PARTS[BODY]
    assert not np.array_equal(first[0][0].weights[body], fresh[0][0].weights[body])
    old = second_round(ClientConfig(batch_size=8, private_moments="none"))[1]
    assert not np.array_equal(first[0][0].weights[AT], old[0][0].weights[AT])


def test_weights_alone_still_tell_something() -> None:
    """What the default does not hide: Adam's change of the weights, and the span of a sum."""
    broadcast, finished = second_round(ClientConfig(batch_size=8))
    embs, changes = [], []
    for update, after in finished:
        assert after.client_emb is not None
        embs.append(after.client_emb.double().numpy())
        change = (update.weights - broadcast.weights).astype(np.float64)[AT]
        changes.append(change.reshape(MODEL.cond_dim, MODEL.d_emb))
    cosines = [abs_cos(top_direction(c), e) for c, e in zip(changes, embs, strict=True)]
    assert min(cosines) > 0.5
    outside = torch_generator(SEED, "outside")
    others = torch.randn(20, MODEL.d_emb, generator=outside).double().numpy()
    total = np.sum(changes, axis=0)
    shares = span_shares(total, len(changes), np.stack(embs))
    assert shares.min() > span_shares(total, len(changes), others).mean() + 0.2
