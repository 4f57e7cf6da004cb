"""An attack on the training images of new clients, with their adapted models in hand.

Members are the images that a client was adapted to. The others are held-out images of the same
client, equally many where there are enough: both have the same classes. An image's score is its
denoising loss before minus after adaptation (Carlini et al. 2022, with one reference model); a
higher score says "member". N: images.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pipeline.clients.worker import ClientWorker
from spire_core.diffusion.generation import client_denoiser
from spire_core.diffusion.process import Denoiser, Diffusion
from spire_core.federated.private_state import PrivateState, load_client
from spire_core.privacy.membership import (
    AttackResult,
    ClientScores,
    best_elsewhere,
    evaluate_attack,
)
from spire_core.rng import torch_generator
from spire_core.training.fit import to_float
from spire_core.training.several import is_table

LOSS_TIMES = (50, 100, 200, 300)  # of a process of 1000 timesteps
NUM_DRAWS = 16  # of noise, at each of these times
MAX_IMAGES = 256  # members of a client that are attacked, and as many others
CHUNK = 256  # images in a forward pass


@dataclass(frozen=True)
class ModelLeak:
    """What the adapted models of these clients tell; sizes of the sets of images."""

    attack: AttackResult
    client_ids: tuple[int, ...]
    num_members: int
    num_others: int


def attack_models(
    worker: ClientWorker,
    weights: np.ndarray,
    client_ids: Sequence[int],
    state_of: Callable[[int], PrivateState],
) -> ModelLeak:
    """Return what the adapted models of these clients tell on the backbone (P,).

    `state_of` returns a client's own parts after adaptation.
    """
    scores = [client_scores(worker, weights, c, state_of(c)) for c in client_ids]
    chosen = best_elsewhere(list(zip(*scores, strict=True)))
    return ModelLeak(
        evaluate_attack(chosen, worker.setup.config.seed),
        tuple(client_ids),
        sum(len(one.members) for one in chosen),
        sum(len(one.others) for one in chosen),
    )


def client_scores(
    worker: ClientWorker, weights: np.ndarray, client_id: int, state: PrivateState
) -> list[ClientScores]:
    """Return one client's scores at each of `LOSS_TIMES`; the worker's network is overwritten.

    The model before adaptation is one that anybody can have: with an embedding, the network with a
    zero embedding.
    """
    config = worker.config
    client = worker.client_data(client_id)
    split = client.as_fitted(config).split
    members = split.train[:MAX_IMAGES]
    others = split.test[: len(members)]
    images = client.images_at(np.concatenate([members, others]))
    x0 = to_float(client.as_shown(images)).to(worker.device)

    def losses(emb: Tensor | None) -> Tensor:
        if emb is not None and is_table(emb):
            return sum((row[-1] * losses(row[:-1]) for row in emb), torch.zeros(()))
        denoise = client_denoiser(worker.model.net, emb)
        return denoising_losses(denoise, worker.diffusion, x0, LOSS_TIMES, config.seed)

    worker.model.load(worker.start_weights(client_id, weights))
    has_embedding = config.method.record.has_embedding
    before = losses(
        torch.zeros(config.model.d_emb, device=worker.device) if has_embedding else None
    )
    gains = before - losses(load_client(worker.model, worker.on_device(weights), state))
    n = len(members)
    return [ClientScores(gain[:n].numpy(), gain[n:].numpy()) for gain in gains]


@torch.inference_mode()
def denoising_losses(
    denoise: Denoiser, diffusion: Diffusion, x0: Tensor, times: Sequence[int], seed: int
) -> Tensor:
    """Return the mean denoising loss (len(times), N) float64 of images x0 (N, C, H, W).

    Times are scaled to the process. Image i meets the same draws of noise in every call, so that
    losses of two models can be subtracted.
    """
    device, losses = x0.device, torch.zeros(len(times), len(x0), dtype=torch.float64)
    num_timesteps = diffusion.config.num_timesteps
    for row, time in enumerate(times):
        scaled = min(num_timesteps - 1, max(1, round(time * num_timesteps / 1000)))
        t = torch.full((len(x0),), scaled, device=device)
        generator = torch_generator(seed, "audit_noise", time)
        for _ in range(NUM_DRAWS):
            eps = torch.randn(x0.shape, generator=generator).to(device)
            for at in torch.arange(len(x0)).split(CHUNK):
                loss = diffusion.loss(denoise, x0[at], t[at], eps[at])
                losses[row, at] += loss.double().cpu() / NUM_DRAWS
    return losses
