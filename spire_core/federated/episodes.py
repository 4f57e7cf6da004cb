"""Episodes: rounds in which a client plays a new one, so that the backbone learns to serve it.

The client draws a random part of its images and fits an embedding to them from zero, in the steps
that the embedding takes alone; then the backbone trains on the same images. It is the first-order
form of CAVIA (Zintgraf et al. 2019, arXiv 1810.03642, section 4). A set encoder, if the model has
one, adds what it makes of each batch, and trains beside the backbone. The client's own embedding
stays as it is.
"""

import torch

from spire_core.config.method import MethodConfig
from spire_core.federated.private_state import PrivateState
from spire_core.methods import CLIENT_EMB
from spire_core.training.batches import Batch
from spire_core.training.context import ClientContext


def episode_of(client: ClientContext, method: MethodConfig, round_idx: int) -> ClientContext | None:
    """Return a client with the images of its episode in a round, None if the round is none.

    Of n images it has floor(n^u), u uniform in [0, 1): as many episodes have 1 to 10 images as have
    10 to 100.
    """
    if method.episodes == 0.0 or not method.record.has_embedding:
        return None
    generator, num_images = client.generator("episode", round_idx), len(client.images)
    chance, u = torch.rand(2, generator=generator, dtype=torch.float64).tolist()
    if chance >= method.episodes:
        return None
    order = torch.randperm(num_images, generator=generator)
    return client.chosen(order[: int(num_images**u)])


def as_set(batch: Batch, batch_size: int) -> Batch:
    """Return a batch of an episode, which is a set, and whose few images fill it."""
    return batch.repeated(max(1, batch_size // len(batch.images)))._replace(is_set=True)


def begun_anew(state: PrivateState) -> PrivateState:
    """Return a private state whose embedding is zero, and has no Adam moments."""
    emb = torch.zeros_like(state.parts[CLIENT_EMB])
    moments = {part: kept for part, kept in state.moments.items() if part != CLIENT_EMB}
    return PrivateState({**state.parts, CLIENT_EMB: emb}, moments, state.residual)


def with_embedding_of(state: PrivateState, before: PrivateState) -> PrivateState:
    """Return a private state with the embedding, and its Adam moments, of the one before."""
    moments = {part: kept for part, kept in state.moments.items() if part != CLIENT_EMB}
    if CLIENT_EMB in before.moments:
        moments[CLIENT_EMB] = before.moments[CLIENT_EMB]
    parts = {**state.parts, CLIENT_EMB: before.parts[CLIENT_EMB]}
    return PrivateState(parts, moments, state.residual)
