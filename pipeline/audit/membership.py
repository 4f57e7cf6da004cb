"""Attacks on the training images of new clients, with their adapted models in hand.

Members are the images that a client was adapted to. The others are held-out images of the same
client, equally many where there are enough: both have the same classes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from pipeline.audit.image_scores import (
    LOSS_TIMES,
    denoising_losses,
    inversion_errors,
    nearest_distances,
)
from pipeline.clients.client_data import ClientData
from pipeline.clients.worker import ClientWorker
from spire_core.diffusion.generation import client_denoiser
from spire_core.federated.private_state import PrivateState, load_client
from spire_core.privacy.membership import (
    AttackResult,
    ClientScores,
    best_elsewhere,
    evaluate_attack,
)
from spire_core.training.fit import to_float

REFERENCE, SECMI, NEAREST = "reference loss", "SecMI", "nearest neighbour"
MAX_IMAGES = 256  # members of a client that are attacked, and as many others

StateOf = Callable[[int], PrivateState]


@dataclass(frozen=True, eq=False)
class Attacked:
    """One client's scores by each attack; the reference attack has one for each timestep."""

    reference: tuple[ClientScores, ...]
    secmi: ClientScores
    nearest: ClientScores


@dataclass(frozen=True)
class ModelLeak:
    """What adapted models of these clients tell by attack; sizes of the sets of images."""

    attacks: dict[str, AttackResult]
    client_ids: tuple[int, ...]
    num_members: int
    num_others: int


def attack_models(
    worker: ClientWorker, weights: np.ndarray, client_ids: Sequence[int], state_of: StateOf
) -> ModelLeak:
    """Return what the adapted models of these clients tell on the backbone (P,).

    `state_of` returns a client's own parts after adaptation.
    """
    attacked = [attack_client(worker, weights, c, state_of(c)) for c in client_ids]
    scores = {
        REFERENCE: best_elsewhere(list(zip(*(one.reference for one in attacked), strict=True))),
        SECMI: [one.secmi for one in attacked],
        NEAREST: [one.nearest for one in attacked],
    }
    seed = worker.setup.config.seed
    return ModelLeak(
        {name: evaluate_attack(of_clients, seed) for name, of_clients in scores.items()},
        tuple(client_ids),
        sum(len(one.secmi.members) for one in attacked),
        sum(len(one.secmi.others) for one in attacked),
    )


def attack_client(
    worker: ClientWorker, weights: np.ndarray, client_id: int, state: PrivateState
) -> Attacked:
    """Return one client's scores by each attack; the worker's network is overwritten."""
    context, evaluator = worker.context, worker.evaluator
    client, config = worker.client_data(client_id), context.config
    positions, is_member = candidates(client.as_fitted(config))
    images = client.images_at(positions)
    x0 = to_float(client.as_shown(images)).to(context.device)
    reference_losses = _losses_before(worker, weights, client_id, x0)
    backbone = context.on_device(weights)
    emb = load_client(context.model, backbone, state)
    denoise = client_denoiser(context.model.net, emb)
    seed = config.seed
    gain = reference_losses - denoising_losses(denoise, context.diffusion, x0, LOSS_TIMES, seed)
    secmi = -inversion_errors(denoise, context.diffusion, x0)
    # Without captions: those to draw for are the held-out images', which are the others.
    drawn_as = replace(client, tokens=None)
    reference = evaluator.reference(backbone)
    generated = evaluator.generate(drawn_as, emb, reference, state.guidance)
    pixels = to_float(images).to(context.device)
    nearest = -nearest_distances(pixels, generated.to(context.device))
    return Attacked(
        tuple(_split(row, is_member) for row in gain),
        _split(secmi, is_member),
        _split(nearest, is_member),
    )


def _losses_before(worker: ClientWorker, weights: np.ndarray, client_id: int, x0: Tensor) -> Tensor:
    """Return losses of images x0 under the model before adaptation, which anybody can have.

    With an embedding that is the network with a zero embedding.
    """
    context = worker.context
    context.model.load(worker.adapter.start_weights(client_id, weights))
    emb = None
    if context.config.method.record.has_embedding:
        emb = torch.zeros(context.config.model.d_emb, device=context.device)
    denoise = client_denoiser(context.model.net, emb)
    return denoising_losses(denoise, context.diffusion, x0, LOSS_TIMES, context.config.seed)


def candidates(client: ClientData) -> tuple[np.ndarray, Tensor]:
    """Return positions (N,) of images, and which of them (N,) the client was adapted to."""
    members = client.split.train[:MAX_IMAGES]
    others = client.split.test[: len(members)]
    is_member = torch.arange(len(members) + len(others)) < len(members)
    return np.concatenate([members, others]), is_member


def _split(scores: Tensor, is_member: Tensor) -> ClientScores:
    return ClientScores(scores[is_member].numpy(), scores[~is_member].numpy())
