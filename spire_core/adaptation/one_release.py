"""One release: an embedding for each image without noise, and their noisy mean.

DPAgg-TI (Peetathawatchai et al. 2026, arXiv 2411.14639, section 4). The embedding of an image
depends on no other image. Its difference to the public start is clipped, so that one image moves
the mean by at most C / n. n: images, D_emb: numbers of an embedding.
"""

import torch
from torch import Tensor, nn

from spire_core.adaptation.adapt import Adapted, Observe
from spire_core.adaptation.private_descent import PrivateCurve, Protection
from spire_core.adaptation.private_gradients import embedding_gradients, images_at_once, pieces
from spire_core.config.privacy import PrivateAdaptConfig
from spire_core.methods import CLIENT_EMB
from spire_core.network.flat_model import FlatModel
from spire_core.privacy.release import BoundedSum
from spire_core.training.adam import Adam
from spire_core.training.context import ClientContext
from spire_core.training.fit import TrainingObjective


def offsets(
    model: FlatModel,
    objective: TrainingObjective,
    client: ClientContext,
    start: Tensor,
    settings: PrivateAdaptConfig,
    lr: float,
) -> Tensor:
    """Return how far each image's own embedding moves from the start (D_emb,), as (n, D_emb)."""
    embs = nn.Parameter(start.expand(len(client.images), -1).clone())
    # Adam steps every number by itself, so that one optimizer serves all embeddings.
    optimizer = Adam({CLIENT_EMB: embs}, {CLIENT_EMB: lr}, {})
    size = images_at_once(settings.draws)
    for step in range(1, settings.steps + 1):
        own = pieces(client, settings.draws, size, step, objective)
        rows = zip(embs.detach().split(size), own, strict=True)
        gradients = [embedding_gradients(model, objective, *pair) for pair in rows]
        embs.grad = torch.cat(gradients)
        optimizer.step()
    return embs.detach() - start


def release_embedding(
    model: FlatModel,
    protection: Protection,
    objective: TrainingObjective,
    client: ClientContext,
    start: Tensor,
    observe: Observe,
) -> Adapted:
    """Fit one client's embedding from a start (D_emb,); it is observed before and afterwards."""
    guarantee = protection.guarantee(len(client.images))
    curve = PrivateCurve(observe, model, start)
    moved = offsets(model, objective, client, start, protection.settings, protection.lr)
    total = BoundedSum(len(start), protection.clip_norm, start.device)
    total.add(moved)
    normals = protection.noise.normals(len(start), "adapt_release", client.client_id)
    noisy = total.release(guarantee.noise_multiplier, normals) / guarantee.batch
    emb = start + noisy.to(start.dtype)
    curve.add(protection.settings.steps, emb)
    return curve.result(CLIENT_EMB, emb)
