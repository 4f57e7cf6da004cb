"""Differentially private adaptation: embeddings of many new clients in one batch, or one part.

The unit is one image of a client, and the backbone is public. Whatever is returned and observed
depends on a client's images through noisy sums alone: there is no early stopping and no loss of
training images. D_emb: numbers of an embedding, B: images of a pass.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from spire_core.adaptation.adapt import Adapted, Observe
from spire_core.adaptation.one_release import release_embedding
from spire_core.adaptation.private_descent import PrivateCurve, PrivateDescent, Protection
from spire_core.adaptation.private_gradients import (
    PartGradients,
    Piece,
    embedding_gradients,
    images_at_once,
    pieces,
)
from spire_core.errors import ConfigError
from spire_core.federated.private_state import PrivateState
from spire_core.methods import CLIENT_EMB, NETWORK_PARTS
from spire_core.network.flat_model import FlatModel, train_only
from spire_core.privacy.release import BoundedSum
from spire_core.training.context import ClientContext
from spire_core.training.fit import TrainingObjective


def adapt_privately(
    model: FlatModel,
    weights: Tensor,
    clients: Sequence[ClientContext],
    starts: Sequence[PrivateState],
    protection: Protection,
    objective: TrainingObjective,
    observers: Sequence[Observe],
) -> list[Adapted]:
    """Fit new clients on the backbone `weights` (P,) with differential privacy for their images.

    Embeddings share a batch, larger parts are fitted one after the other. An observer gets the
    averaged iterate, as it would be published. Raises ConfigError if new clients of the method
    train nothing or several parts.
    """
    parts = model.method.record.adapt_parts
    if len(parts) != 1:
        raise ConfigError(
            f"expected a method whose new clients train one part with privacy.adapt.epsilon, got "
            f"{model.method.name} with {len(parts)}: choose spire, fedavg_ft, shared_rep or local"
        )
    model.net.eval()
    train_only(model.net, model.layout, ())
    run = (model, protection, objective)
    if parts[0] in NETWORK_PARTS:
        return [
            _descend_part(*run, weights, client, parts[0], observe)
            for client, observe in zip(clients, observers, strict=True)
        ]
    model.load(weights)
    embs = [start.parts[CLIENT_EMB].to(model.weights.device) for start in starts]
    if protection.settings.mechanism == "dp_sgd":
        return _descend_embeddings(*run, clients, embs, observers)
    return [release_embedding(*run, *one) for one in zip(clients, embs, observers, strict=True)]


def _descend_embeddings(
    model: FlatModel,
    protection: Protection,
    objective: TrainingObjective,
    clients: Sequence[ClientContext],
    starts: Sequence[Tensor],
    observers: Sequence[Observe],
) -> list[Adapted]:
    pairs = list(zip(clients, starts, observers, strict=True))
    descents = [PrivateDescent(emb, c, protection) for c, emb, _ in pairs]
    curves = [PrivateCurve(observe, model, emb) for _, emb, observe in pairs]
    for step in range(1, protection.settings.steps + 1):
        sums = [descent.new_sum() for descent in descents]
        _add_gradients(model, objective, descents, sums, step)
        for descent, curve, total in zip(descents, curves, sums, strict=True):
            descent.take_step(step, total)
            curve.add(step, descent.average, protection.is_observed(step))
    return [
        curve.result(CLIENT_EMB, descent.average)
        for descent, curve in zip(descents, curves, strict=True)
    ]


def _add_gradients(
    model: FlatModel,
    objective: TrainingObjective,
    descents: Sequence[PrivateDescent],
    sums: Sequence[BoundedSum],
    step: int,
) -> None:
    """Add the gradients of a step's images to their clients' sums; clients share passes."""
    waiting = list[tuple[int, Piece]]()  # a client's position, and some of its images
    for i, descent in enumerate(descents):
        num_draws = descent.protection.settings.draws
        size = images_at_once(num_draws)
        for piece in pieces(descent.shown_in(step), num_draws, size, step, objective):
            if sum(len(other.images) for _, other in waiting) + len(piece.images) > size:
                _take_pass(model, objective, descents, sums, waiting)
                waiting = []
            waiting.append((i, piece))
    if waiting:
        _take_pass(model, objective, descents, sums, waiting)


def _take_pass(
    model: FlatModel,
    objective: TrainingObjective,
    descents: Sequence[PrivateDescent],
    sums: Sequence[BoundedSum],
    waiting: Sequence[tuple[int, Piece]],
) -> None:
    sizes = [len(piece.images) for _, piece in waiting]
    embs = torch.cat(
        [
            descents[i].iterate.detach().expand(size, -1)
            for (i, _), size in zip(waiting, sizes, strict=True)
        ]
    )
    whole = Piece(*(torch.cat(same) for same in zip(*(piece for _, piece in waiting), strict=True)))
    gradients = embedding_gradients(model, objective, embs, whole)
    for (i, _), own in zip(waiting, gradients.split(sizes), strict=True):
        sums[i].add(own)


def _descend_part(
    model: FlatModel,
    protection: Protection,
    objective: TrainingObjective,
    weights: Tensor,
    client: ClientContext,
    part: str,
    observe: Observe,
) -> Adapted:
    """Fit one part of the network; the model ends with the part that is published."""
    model.load(weights)
    own, gradients = model.weights[model.layout.parts[part]], PartGradients(model, objective, part)
    descent = PrivateDescent(own, client, protection)
    curve = PrivateCurve(observe, model, None)
    num_draws = protection.settings.draws
    size = gradients.images_at_once(num_draws)
    for step in range(1, protection.settings.steps + 1):
        total = descent.new_sum()
        for piece in pieces(descent.shown_in(step), num_draws, size, step, objective):
            total.add(gradients(descent.iterate, piece))
        descent.take_step(step, total)
        own.copy_(descent.average)
        curve.add(step, None, protection.is_observed(step))
    return curve.result(part, descent.average)
